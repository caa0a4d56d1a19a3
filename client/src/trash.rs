//! The trash: removing in a way that can be taken back.

use dfs_proto::v1;

use crate::{DfsClient, DfsError, escape_name, path};

/// What became of a node that was to go to the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trashed {
    /// It is there, at this path.
    Moved(String),
    /// Nothing was done, as it lies in the user's trash already: [`DfsClient::delete`] removes it for good.
    Inside,
    /// Nothing was done, as the cluster keeps no trash.
    Off,
}

/// What [`DfsClient::expunge`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expunged {
    /// Checkpoint that was made of what had been removed lately, if there was anything.
    pub made: Option<String>,
    /// Checkpoints that were deleted.
    pub deleted: Vec<String>,
}

impl DfsClient {
    /// Moves a file, or with `recursive` a directory with everything below it, to the user's trash
    /// (`/user/NAME/.Trash/Current`), in one step whatever its size. The namenode deletes it some time later; until then
    /// [`DfsClient::rename`] brings it back.
    pub async fn move_to_trash(&self, path: &str, recursive: bool) -> Result<Trashed, DfsError> {
        let nn = &self.inner.namenode;
        let request =
            v1::MoveToTrashRequest { context: nn.context(), node: Some(path::node(path)?), recursive };
        let answer = nn.call(path, request, |mut s, r| async move { s.move_to_trash(r).await }).await?;
        Ok(match answer.outcome() {
            v1::TrashOutcome::Moved => Trashed::Moved(shown(&answer.trash_path)),
            v1::TrashOutcome::Inside => Trashed::Inside,
            v1::TrashOutcome::Off => Trashed::Off,
        })
    }

    /// Makes a checkpoint of what the user removed lately, and deletes the user's checkpoints that are old enough;
    /// with `immediate` all of them.
    pub async fn expunge(&self, immediate: bool) -> Result<Expunged, DfsError> {
        let nn = &self.inner.namenode;
        let mut expunged = Expunged::default();
        loop {
            let request = v1::ExpungeRequest { context: nn.context(), immediate };
            let answer = nn.call("", request, |mut s, r| async move { s.expunge(r).await }).await?;
            if expunged.made.is_none() && !answer.made.is_empty() {
                expunged.made = Some(shown(&answer.made));
            }
            expunged.deleted.extend(answer.deleted.iter().map(|path| shown(path)));
            if !answer.more {
                return Ok(expunged);
            }
        }
    }
}

/// A path as clients write it.
fn shown(path: &[u8]) -> String {
    path.split(|byte| *byte == b'/').map(escape_name).collect::<Vec<_>>().join("/")
}
