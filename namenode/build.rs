//! Compiles the namenode's own `.proto` files with `protox`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=../proto/proto");
    tonic_prost_build::configure()
        .bytes(".dfs.namenode.BackupChunk")
        .bytes(".dfs.namenode.EmptyTrashOp")
        .bytes(".dfs.namenode.Trashed")
        .bytes(".dfs.namenode.TrashEmptied")
        .extern_path(".dfs.v1", "::dfs_proto::v1")
        .compile_fds(protox::compile(
            ["dfs/backup.proto", "dfs/log.proto", "dfs/raft.proto"],
            ["proto", "../proto/proto"],
        )?)?;
    Ok(())
}
