//! Runs one test: a runtime of its own, logs on, and a deadline, so that a hang is a failure and not
//! a stuck build.

use std::future::Future;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Result, bail};
use tracing_subscriber::EnvFilter;

/// Longest that one test may run; slow machines included.
pub const TEST_DEADLINE: Duration = Duration::from_secs(240);

/// Threads of a test's runtime: servers and client share them, as they share two cores.
const WORKER_THREADS: usize = 2;

/// How long threads of the runtime may take to end after the test.
const RUNTIME_END: Duration = Duration::from_secs(5);

static LOGGING: Once = Once::new();

/// Shows log lines of level WARN and above of the servers in a failed test's output; `RUST_LOG` says otherwise.
fn start_logging() {
    LOGGING.call_once(|| {
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new("warn,openraft::core::tick=error"));
        // A second subscriber in the process would only mean that logs are shown already.
        let _ =
            tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter).with_test_writer().try_init();
    });
}

/// Runs `test` to its end or its deadline.
pub fn run(test: impl Future<Output = Result<()>>) -> Result<()> {
    run_within(TEST_DEADLINE, test)
}

/// Like [`run`], for a test that has a time limit of its own.
pub fn run_within(deadline: Duration, test: impl Future<Output = Result<()>>) -> Result<()> {
    start_logging();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
    let outcome = runtime.block_on(async { tokio::time::timeout(deadline, test).await });
    runtime.shutdown_timeout(RUNTIME_END);
    match outcome {
        Ok(result) => result,
        Err(_) => bail!("the test did not end within {deadline:?}"),
    }
}
