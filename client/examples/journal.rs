//! A journal: one task appends records and makes each durable, another follows what is visible so far.
//!
//!     cargo run --release --example journal -- 127.0.0.1:9820 /journal

use std::error::Error;
use std::time::Duration;

use dfs_client::{CreateOptions, DfsClient, DfsError, ErrorKind, FileWriter};

const RECORDS: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [namenode, path] = args.as_slice() else {
        return Err("usage: journal NAMENODE DFS_PATH".into());
    };
    let client = DfsClient::connect(namenode).await?;
    let mut journal = open_journal(&client, path).await?;
    let start = journal.pos();

    let follower = tokio::spawn(follow(client.clone(), path.clone(), start));
    for number in 0..RECORDS {
        journal.write_bytes(format!("record {number}\n").into()).await?;
        // Visible to readers, and in the memory of every datanode of the pipeline. `hsync` would put it on their disks.
        journal.hflush().await?;
    }
    let status = journal.close().await?;
    println!("{path} has {} bytes", status.size);
    follower.await??;
    Ok(())
}

/// Opens the journal at its end, or makes a new one.
async fn open_journal(client: &DfsClient, path: &str) -> Result<FileWriter, DfsError> {
    match client.append(path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            client.create(path, CreateOptions::default()).await
        }
        result => result,
    }
}

/// Prints records from `position` on as they become visible.
async fn follow(client: DfsClient, path: String, mut position: u64) -> Result<(), DfsError> {
    let mut seen = 0;
    while seen < RECORDS {
        // A reader sees the length of the moment at which it was opened.
        let mut reader = client.open(&path).await?;
        reader.seek_to(position);
        while let Some(bytes) = reader.chunk().await? {
            seen += bytes.iter().filter(|byte| **byte == b'\n').count();
            print!("{}", String::from_utf8_lossy(&bytes));
        }
        position = reader.position();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
