//! Opening replicas for writing: new ones, appends, and the recovery stages of a pipeline.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dfs_proto::GenerationStamp;
use dfs_proto::checksum::Checksum;
use dfs_proto::v1::ReplicaEvent;

use super::open_replica::{Home, OpenReplica, OpenState};
use super::replica_map::Entry;
use super::volume::Volume;
use super::writer::ReplicaWriter;
use super::{Dataset, files, scan};
use crate::error::DatanodeError;
use crate::replica::{BlockRef, Replica, ReplicaState, TransitionError};

/// What a new replica is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client writes it from start to end.
    Write,
    /// A client writes it at any offset.
    RandomWrite,
    /// It is copied in.
    Copy,
}

/// Stamps and lengths of a pipeline recovery.
#[derive(Clone, Copy, Debug)]
pub struct Reopen {
    /// Replica as the client knows it.
    pub block: BlockRef,
    /// Stamp it gets.
    pub stamp: GenerationStamp,
    /// Least length accepted; the exact one for appends and closes.
    pub least: u64,
    /// Greatest length accepted.
    pub most: u64,
    /// The writer writes at any offset.
    pub random: bool,
}

impl Reopen {
    const fn home(&self) -> Home {
        if self.random { Home::Random } else { Home::Rbw }
    }
}

impl Dataset {
    /// Creates a replica. A remnant of an older incarnation makes way; anything else is refused.
    pub fn create(
        self: &Arc<Self>,
        block: BlockRef,
        purpose: Purpose,
        checksum: Checksum,
        needed: u64,
        storage_id: Option<&str>,
    ) -> Result<ReplicaWriter, DatanodeError> {
        let volume = self.choose_volume(block.id, needed, storage_id)?;
        let (replica, home) = match purpose {
            Purpose::Write => (Replica::create(block), Home::Rbw),
            Purpose::RandomWrite => (Replica::create(block), Home::Random),
            Purpose::Copy => (Replica::create_temporary(block), Home::Tmp),
        };
        let open = Arc::new(OpenReplica::new(Arc::clone(&volume), replica, home, Some(checksum)));
        let mut state = open.lock();
        while let Some(present) = self.map.insert_open(block.id, &open) {
            if let Err(error) = self.make_way(block, purpose, &present) {
                volume.release(needed);
                return Err(error);
            }
        }
        let opened = self
            .bury(block.id)
            .and_then(|()| ReplicaWriter::open(self, &open, &mut state, checksum, needed, true));
        match opened {
            Ok(writer) => {
                drop(state);
                if purpose != Purpose::Copy {
                    self.changed(ReplicaEvent::Receiving, block, 0, &volume);
                }
                Ok(writer)
            }
            Err(error) => {
                self.note_error(&volume, &error);
                volume.release(needed);
                if let Err(second) = self.remove_files(&open, &mut state) {
                    tracing::warn!(%block, error = %second, "failed creation leaves files");
                }
                Err(error)
            }
        }
    }

    /// Removes what stands in the way of a new replica, if it may.
    fn make_way(&self, block: BlockRef, purpose: Purpose, present: &Entry) -> Result<(), DatanodeError> {
        let exists = |here| Err(DatanodeError::ReplicaExists { block: here });
        if let Entry::Closed(closed) = present
            && self.volume(closed.volume).is_none_or(|volume| volume.is_failed())
        {
            // It is about to be given up with its volume; copies of it come at once.
            self.map.remove_closed(block.id, *closed);
            return Ok(());
        }
        if let Entry::Closed(closed) = present
            && (closed.stamp >= block.stamp || purpose != Purpose::Copy)
        {
            return exists(BlockRef { id: block.id, stamp: closed.stamp });
        }
        let check = |replica: &Replica, _| {
            let here = replica.block();
            let older = here.stamp < block.stamp;
            let empty = here.stamp == block.stamp && replica.length() == 0;
            let replaceable = match replica.state() {
                ReplicaState::Finalized => older && purpose == Purpose::Copy,
                ReplicaState::Rbw | ReplicaState::Rwr | ReplicaState::Temporary => older || empty,
                // Its recovery went on without it if the block that is copied in has that recovery's stamp.
                ReplicaState::Rur => {
                    let over = replica.recovery_id().is_some_and(|id| id <= block.stamp);
                    older && over && purpose == Purpose::Copy
                }
            };
            if replaceable { Ok(()) } else { exists(here) }
        };
        match self.exclusively(block, check, |open, state| self.remove_files(open, state)) {
            Err(DatanodeError::ReplicaNotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes a replica's files and its entry. The replica's lock is held and it has no writer that goes on.
    pub(super) fn remove_files(
        &self,
        open: &Arc<OpenReplica>,
        state: &mut OpenState,
    ) -> Result<(), DatanodeError> {
        let block = state.replica.block();
        self.journal(&open.volume)?.abandon(block)?;
        remove_file(&open.volume, &state.data_path(&open.volume))?;
        remove_file(&open.volume, &state.meta_path(&open.volume))?;
        open.volume.sub_used(state.replica.length());
        state.gone = true;
        self.map.replace_open(state.replica.block().id, open, None);
        open.notify(state);
        Ok(())
    }

    /// Stops the writer of a replica that is to go on as the only one of its block, and compares what was acknowledged of it
    /// with its checksums. It is not locked meanwhile: who asks how it gets on is answered.
    pub fn verify_first(&self, asked: Reopen) -> Result<(), DatanodeError> {
        self.exclusively(
            asked.block,
            |replica, written| check_stamp(replica, asked, written),
            |_, _| Ok(()),
        )?;
        let verified = self.verify_prefix(asked.block, Some(asked.least));
        if let Err(error) = &verified {
            tracing::warn!(block = %asked.block, %error, "the only replica that is left to write on is bad");
            if error.is_damage() {
                let damaged = |_: &Arc<OpenReplica>, state: &mut OpenState| {
                    state.damaged = true;
                    Ok(())
                };
                self.exclusively(asked.block, |_, _| Ok(()), damaged)?;
            }
        }
        verified
    }

    /// Reopens a closed replica to append to it.
    pub fn append(
        self: &Arc<Self>,
        asked: Reopen,
        checksum: Checksum,
    ) -> Result<ReplicaWriter, DatanodeError> {
        self.reopen(asked, checksum, |replica| {
            if replica.block().stamp != asked.block.stamp {
                return Err(TransitionError::Stamp { block: replica.block(), asked: asked.block.stamp });
            }
            replica.append(asked.stamp, asked.least)
        })
    }

    /// [`Self::append`] after a failed attempt.
    pub fn recover_append(
        self: &Arc<Self>,
        asked: Reopen,
        checksum: Checksum,
    ) -> Result<ReplicaWriter, DatanodeError> {
        self.reopen(asked, checksum, |replica| {
            replica.recover_append(asked.block.stamp, asked.stamp, asked.least)
        })
    }

    /// Goes on with a replica after a failure while streaming.
    pub fn recover_rbw(
        self: &Arc<Self>,
        asked: Reopen,
        checksum: Checksum,
    ) -> Result<ReplicaWriter, DatanodeError> {
        self.reopen(asked, checksum, |replica| {
            if asked.random {
                return replica.recover_random(asked.block.stamp, asked.stamp, asked.least);
            }
            replica.recover_rbw(asked.block.stamp, asked.stamp, asked.least, asked.most)
        })
    }

    fn reopen(
        self: &Arc<Self>,
        asked: Reopen,
        checksum: Checksum,
        transition: impl Fn(&mut Replica) -> Result<u64, TransitionError>,
    ) -> Result<ReplicaWriter, DatanodeError> {
        let check = |replica: &Replica, written| {
            check_stamp(replica, asked, written)?;
            match transition(&mut replica.clone()) {
                // What is being written may have the right length once its writer has stopped.
                Ok(_) | Err(TransitionError::Length { .. }) => Ok(()),
                Err(refused) => Err(refused.into()),
            }
        };
        self.exclusively(asked.block, check, |open, state| {
            if state.damaged {
                // Neither alone, nor beside others that may be whole.
                return Err(
                    TransitionError::State { block: asked.block, state: state.replica.state() }.into()
                );
            }
            let mut next = state.replica.clone();
            let length = transition(&mut next)?;
            let before = (state.home, state.replica.block());
            if state.home.is_closed() && !asked.random {
                self.check_checksum(open, state, checksum)?;
            }
            if !asked.random || length < state.replica.length() {
                self.retire_records(open, state)?;
            }
            let known_sum = state.known_sum();
            files::relocate(&open.volume, before, (asked.home(), next.block()))?;
            state.home = asked.home();
            let have = state.replica.length();
            open.volume.sub_used(have - length);
            // From here on a failure leaves a replica being written, under its new stamp, for recovery.
            state.replica = next;
            // Of one that was written from start to end, the last checksum may be known better than from the file.
            if !asked.random || length < have || before.0 == Home::Rbw {
                files::cut(&open.volume, state.home, state.replica.block(), have, known_sum, length)?;
            }
            ReplicaWriter::open(self, open, state, checksum, 0, false)
        })
    }

    /// Refuses a writer whose checksums are not the replica's, before anything is changed.
    fn check_checksum(
        &self,
        open: &OpenReplica,
        state: &OpenState,
        asked: Checksum,
    ) -> Result<(), DatanodeError> {
        let path = state.meta_path(&open.volume);
        let here = files::read_checksum(&files::open_rw(&path)?, &path)?;
        if here != asked {
            return Err(DatanodeError::ChecksumDiffers {
                block: state.replica.block(),
                here: format!("{here:?}"),
                asked: format!("{asked:?}"),
            });
        }
        Ok(())
    }

    /// Closes a replica whose close failed elsewhere in the pipeline.
    pub fn recover_close(self: &Arc<Self>, asked: Reopen) -> Result<(), DatanodeError> {
        let check = |replica: &Replica, written| check_stamp(replica, asked, written);
        self.exclusively(asked.block, check, |open, state| {
            let mut next = state.replica.clone();
            let have = next.length();
            if asked.random {
                next.recover_close_random(asked.block.stamp, asked.stamp, asked.least)?;
            } else {
                next.recover_close(asked.block.stamp, asked.stamp, asked.least)?;
            }
            if next.length() < have {
                self.retire_records(open, state)?;
            }
            let mut from = (state.home, state.replica.block());
            if from.0.is_closed() && next.length() < have {
                // Cut where unfinished replicas are, so that a crash in between is found and completed at start.
                files::relocate(&open.volume, from, (Home::Random, from.1))?;
                from.0 = Home::Random;
                state.home = Home::Random;
            }
            if !from.0.is_closed() {
                let known_sum = state.known_sum();
                files::cut(&open.volume, from.0, from.1, have, known_sum, next.length())?;
                open.volume.sub_used(have - next.length());
                files::write_header_if_missing(&open.volume, from.0, from.1, state.checksum)?;
            }
            files::relocate(&open.volume, from, (Home::Finalized, next.block()))?;
            state.home = Home::Finalized;
            state.replica = next;
            self.changed(ReplicaEvent::Received, state.replica.block(), state.replica.length(), &open.volume);
            Ok(())
        })
    }
}

/// Removes a file of a replica. A directory in its place is set aside: nobody here made it.
fn remove_file(volume: &Volume, path: &Path) -> Result<(), DatanodeError> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return scan::set_aside(volume, path);
    }
    files::remove(path)
}

/// Refuses requests of the past. One with the stamp that is being written already is a late twin of the one that
/// set up the present pipeline: only a higher stamp stops a writer.
fn check_stamp(replica: &Replica, asked: Reopen, written: bool) -> Result<(), DatanodeError> {
    let here = replica.block().stamp;
    if here < asked.block.stamp {
        return Err(DatanodeError::StaleReplica { block: asked.block, here });
    }
    let late = here > asked.stamp || (written && here == asked.stamp);
    if late || replica.state() == ReplicaState::Rur {
        return Err(TransitionError::Stamp { block: replica.block(), asked: asked.stamp }.into());
    }
    Ok(())
}
