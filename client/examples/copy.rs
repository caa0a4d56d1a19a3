//! Stores a local file in a cluster, reads it back, and compares checksums.
//!
//!     cargo run --release --example copy -- 127.0.0.1:9820 LOCAL_FILE /path/in/dfs

use std::error::Error;
use std::time::Instant;

use dfs_client::{CreateOptions, DfsClient};
use tokio::fs::File;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [namenode, local, path] = args.as_slice() else {
        return Err("usage: copy NAMENODE LOCAL_FILE DFS_PATH".into());
    };
    let client = DfsClient::connect(namenode).await?;

    // Writing: any AsyncRead can be copied into the writer.
    let started = Instant::now();
    let mut source = File::open(local).await?;
    let options = CreateOptions { overwrite: true, create_parents: true, ..Default::default() };
    let mut writer = client.create(path, options).await?;
    let written = tokio::io::copy(&mut source, &mut writer).await?;
    let status = writer.close().await?;
    println!("wrote {written} bytes in {:.2?}, replication {}", started.elapsed(), status.replication);

    // Reading: chunks are handed out without a copy, after their checksums were verified.
    let started = Instant::now();
    let mut reader = client.open(path).await?;
    let mut crc = crc32fast::Hasher::new();
    while let Some(bytes) = reader.chunk().await? {
        crc.update(&bytes);
    }
    println!("read {} bytes in {:.2?}", reader.position(), started.elapsed());

    // The datanodes compose the file's checksum from what they stored; it is the plain CRC-32 of the bytes.
    let stored = client.checksum(path).await?;
    if stored.crc != crc.finalize() {
        return Err(format!("{path}: the stored checksum {stored} is not that of the bytes read").into());
    }
    println!("checksum {stored} ({})", stored.algorithm());

    // Positioned reads need no seek and take a shared reference.
    let mut tail = vec![0; 16.min(reader.len() as usize)];
    let at = reader.len() - tail.len() as u64;
    let n = reader.read_at(at, &mut tail).await?;
    println!("last {n} bytes: {:02x?}", &tail[..n]);
    Ok(())
}
