//! Closing files of delegated directories that were written, without waiting for the namenode.
//!
//! What the namenode is told of a file when its lease is given back is queued like any other change. Who looks at the file through another session has
//! the directory recalled first, and so finds it closed: close-to-open holds as if it had been a call. If this process is killed before the namenode
//! hears of it, some ms, the file is as one that was not closed: a recovery of its lease finds what the replicas have.
//!
//! Only files of one block of which the namenode has not recorded anything yet are closed so: their attributes afterwards are known here, and nothing
//! that was synced depends on the answer.

use dfs_proto::InodeId;
use dfs_proto::v1::change::Change as What;
use dfs_proto::v1::{Change, CommitBlocksRequest, FileStatus, FileType};

use super::Shared;
use super::node_changes::{Done, Moment};
use super::nodes::{Nodes, Verdict};
use crate::fs::file_system::FsInner;

impl Nodes {
    /// Ends the writing of a file with what is to be recorded; none if only the namenode can say what it is then.
    pub(super) fn close(
        &mut self,
        inode: u64,
        written: &CommitBlocksRequest,
        moment: Moment,
    ) -> Option<Done> {
        let dir = self.place(inode).filter(|dir| !self.is_shared(*dir))?;
        let now_ns = self.time_of(&[inode], moment);
        let node = self.nodes.get_mut(&inode).filter(|node| node.is_firm())?;
        let status = &mut node.status;
        let is_new = status.r#type() == FileType::File
            && status.under_construction
            && (status.size, status.allocated) == (0, 0);
        let is_ended = written.blocks.len() <= 1 && written.blocks.iter().all(|block| block.finished);
        if !is_new || !is_ended {
            return None;
        }
        let block = written.blocks.first().and_then(|written| written.block);
        let (size, mtime_ns) = (written.size.unwrap_or(0), written.mtime_ns.unwrap_or(status.mtime_ns));
        if size > 0 || mtime_ns != status.mtime_ns {
            status.ctime_ns = now_ns;
            status.change += 1;
        }
        (status.size, status.mtime_ns) = (size, mtime_ns);
        status.allocated = block.map_or(0, |block| block.length);
        status.under_construction = false;
        let status = status.clone();
        if let Some(directory) = self.directories.get_mut(&dir) {
            directory.used = moment.at;
        }
        Some(Done { status, other: None, now_ns })
    }
}

impl FsInner {
    /// Queues the end of a file's writing, if that can be answered here. `inode` and `session` of the request are filled in by the namenode.
    pub(in crate::fs) fn close_here(
        &self,
        shared: &mut Shared,
        moment: Moment,
        inode: InodeId,
        written: &CommitBlocksRequest,
    ) -> Verdict<FileStatus> {
        let (nodes, inode) = (&shared.nodes, inode.get());
        let directory = nodes.place(inode).and_then(|dir| Some((dir, nodes.directories.get(&dir)?)));
        let Some((dir, directory)) = directory.filter(|_| written.close) else { return Verdict::Ask };
        let caller = directory.caller.clone();
        // A session that may have ended has lost its leases: whoever closes the file then is told at once.
        if !shared.may_read(dir, moment.at) || shared.is_direct(inode) {
            return Verdict::Ask;
        }
        let Some(Done { status, now_ns, .. }) = shared.nodes.close(inode, written, moment) else {
            return Verdict::Ask;
        };
        let change =
            Change { now_ns, inode, change: Some(What::Commit(written.clone())), ..Change::default() };
        self.queue_change(shared, &caller, moment, &[inode, dir], change);
        Verdict::Given(Ok(status))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use dfs_proto::v1::{Block, WrittenBlock};

    use super::super::nodes::Grant;
    use super::*;
    use crate::fs::Caller;

    const DIR: u64 = 5;
    const FILE: u64 = 7;

    fn known(file: FileStatus, shared: bool) -> Nodes {
        let directory = FileStatus { inode: DIR, r#type: FileType::Directory.into(), ..Default::default() };
        let caller = Caller::named("anne");
        let mut nodes = Nodes::default();
        let (asked, inode) = (Instant::now(), file.inode);
        let grant = Grant { caller, shared, directory, entries: vec![file.clone()], epoch: 1, asked };
        nodes.grant(grant, &HashMap::from([(inode, Some(file))]), asked);
        nodes
    }

    fn file() -> FileStatus {
        FileStatus {
            inode: FILE,
            r#type: FileType::File.into(),
            nlink: 1,
            change: 3,
            mtime_ns: 100,
            ctime_ns: 200,
            under_construction: true,
            ..Default::default()
        }
    }

    fn block(length: u64, finished: bool) -> WrittenBlock {
        let block = Some(Block { id: 9, generation_stamp: 1, length });
        WrittenBlock { block, storage_ids: vec!["s".into()], finished }
    }

    fn written(blocks: Vec<WrittenBlock>) -> CommitBlocksRequest {
        CommitBlocksRequest { blocks, size: Some(10), mtime_ns: Some(150), close: true, ..Default::default() }
    }

    fn moment(now_ns: i64) -> Moment {
        Moment { at: Instant::now(), now_ns }
    }

    #[test]
    fn a_closed_file_is_what_the_namenode_will_say() {
        let mut nodes = known(file(), false);
        let done = nodes.close(FILE, &written(vec![block(8, true)]), moment(300)).expect("closed");
        let expected = FileStatus {
            size: 10,
            allocated: 8,
            change: 4,
            mtime_ns: 150,
            ctime_ns: 300,
            under_construction: false,
            ..file()
        };
        assert_eq!((&done.status, done.now_ns), (&expected, 300));
        assert_eq!(nodes.stat(FILE), Verdict::Given(Ok(expected)));
        assert_eq!(nodes.close(FILE, &written(Vec::new()), moment(400)), None, "it is not being written");

        let mut nodes = known(file(), false);
        let never_written = CommitBlocksRequest { close: true, ..Default::default() };
        let done = nodes.close(FILE, &never_written, moment(100)).expect("closed");
        assert_eq!(done.status, FileStatus { under_construction: false, ..file() }, "nothing has changed");
        assert_eq!(done.now_ns, 200, "no time goes back");
    }

    #[test]
    fn other_files_are_closed_by_a_call() {
        let one = || written(vec![block(10, true)]);
        let cases = [
            ("read only", file(), true, one()),
            ("several blocks", file(), false, written(vec![block(10, true), block(10, true)])),
            ("a block goes on", file(), false, written(vec![block(10, false)])),
            ("something is recorded", FileStatus { size: 1, ..file() }, false, one()),
            ("a block is", FileStatus { allocated: 1, ..file() }, false, one()),
            ("several names", FileStatus { nlink: 2, ..file() }, false, one()),
            ("elsewhere", FileStatus { inode: FILE + 1, ..file() }, false, one()),
        ];
        for (case, file, shared, written) in cases {
            let mut nodes = known(file, shared);
            assert_eq!(nodes.close(FILE, &written, moment(300)), None, "{case}");
        }
        let mut nodes = known(file(), false);
        nodes.doubt(FILE);
        assert_eq!(nodes.close(FILE, &one(), moment(300)), None, "doubtful");
    }
}
