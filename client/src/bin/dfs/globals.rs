//! What every verb needs to know: which namenode, as which user.

use dfs_client::{DfsClient, DfsError};

use crate::cli::GlobalArgs;
use crate::config::FileConfig;

/// Address used when nothing else names one.
pub const DEFAULT_NAMENODE: &str = "127.0.0.1:9820";

/// The global options after looking at the command line, the environment and `dfs.toml`, in this
/// order.
#[derive(Clone, Debug)]
pub struct Globals {
    /// Address of the namenode.
    pub namenode: String,
    /// User to act as.
    pub user: String,
}

impl Globals {
    /// Fills what the command line leaves open. `dfs.toml` is read only if something is open.
    pub fn resolve(args: GlobalArgs) -> anyhow::Result<Self> {
        let file = if args.namenode.is_some() && args.user.is_some() {
            FileConfig::default()
        } else {
            FileConfig::load()?
        };
        Ok(Self {
            namenode: args.namenode.or(file.namenode).unwrap_or_else(|| DEFAULT_NAMENODE.to_owned()),
            user: args.user.or(file.user).unwrap_or_else(os_user),
        })
    }

    /// Connects to the namenode.
    pub async fn connect(&self) -> Result<DfsClient, DfsError> {
        DfsClient::builder().namenode(&self.namenode).user(&self.user).connect().await
    }
}

/// Name of the user that runs this process; its number if it has no name.
pub fn os_user() -> String {
    let uid = nix::unistd::getuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}
