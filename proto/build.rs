//! Compiles the `.proto` files with `protox`, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let services = [
        "dfs/common.proto",
        "dfs/error.proto",
        "dfs/client.proto",
        "dfs/filesystem.proto",
        "dfs/datanode.proto",
    ];
    tonic_prost_build::configure().bytes(".").compile_fds(protox::compile(services, ["proto"])?)?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(protox::compile(["dfs/data_transfer.proto"], ["proto"])?)?;
    Ok(())
}
