//! The real program, killed in the middle of overwrites.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_proto::data_transfer::{Op, encode_op, read_delimited};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::{BlockOpResponseProto, Status};

use crate::namenode::FakeNamenode;
use crate::random_wire::{Model, Random, Writer, random_op};
use crate::wire::{self, Block, Pipeline};
use crate::{PATIENCE, eventually, pattern};

const LENGTH: u64 = 400_000;
const ROUNDS: u64 = 5;

/// A datanode in a process of its own; killed when dropped.
struct Process {
    child: Child,
    xfer: SocketAddr,
}

impl Process {
    async fn start(namenode: &FakeNamenode, dir: &Path) -> Self {
        let before = namenode.recorded().registered.len();
        let child = Command::new(env!("CARGO_BIN_EXE_dfs-datanode"))
            .args(["--namenode", &namenode.addr().to_string(), "--volume"])
            .arg(dir)
            .args(["--bind", "127.0.0.1", "--reserved-bytes", "0"])
            .args(["--xfer-port", "0", "--ipc-port", "0", "--http-port", "0"])
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        eventually("registration", || namenode.recorded().registered.len() > before).await;
        let info = namenode.recorded().registered.last().and_then(|r| r.info.clone()).expect("info");
        let xfer = SocketAddr::from(([127, 0, 0, 1], info.xfer_port as u16));
        Self { child, xfer }
    }

    /// `kill -9`.
    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// What one writer did to its block.
struct Written {
    block: Block,
    /// With everything that was acknowledged.
    model: Model,
    /// Sent, and maybe written or not, in order.
    unacknowledged: Vec<(u64, Vec<u8>)>,
}

impl Written {
    /// Overwrites until the connection ends.
    fn overwrite(&mut self, writer: &mut Writer, random: &mut Random, acked: &AtomicU64) {
        loop {
            let len = if random.below(10) == 0 { random.below(150_000) } else { random.below(9000) } + 1;
            let offset = random.below(LENGTH - len);
            let data = pattern(random.next(), len as usize);
            let raw = writer.packet(offset, &data, random.below(2) == 0);
            self.unacknowledged.push((offset, data));
            let sent = writer.socket.write_all(&raw);
            let in_flight = random.below(6) as usize;
            while sent.is_ok() && writer.outstanding() > in_flight {
                if writer.try_ack().is_err() {
                    return;
                }
                let (offset, data) = self.unacknowledged.remove(0);
                self.model.write(offset, &data);
                acked.fetch_add(1, Ordering::Relaxed);
            }
            if sent.is_err() {
                return;
            }
        }
    }

    /// Every chunk fits its checksum, and every byte that nobody was about to change is what was acknowledged.
    fn check(&self, addr: SocketAddr) {
        let found = wire::read_over(&mut wire::connect(addr), self.block, 0, LENGTH).expect("read");
        let mut open = vec![false; LENGTH as usize];
        for (offset, data) in &self.unacknowledged {
            open[*offset as usize..*offset as usize + data.len()].fill(true);
        }
        let lost = (0..LENGTH as usize).find(|i| !open[*i] && found[*i] != self.model.0[*i]);
        assert_eq!(lost, None, "{:?}", self.block);
    }
}

/// First byte of the first chunk that does not fit its checksum, as a reader over the network sees it.
fn first_bad_chunk(addr: SocketAddr, block: Block, len: u64) -> Option<u64> {
    let mut socket = wire::connect(addr);
    let op = wire::read_op(block, 0, len, true);
    socket.write_all(&encode_op(Op::ReadBlock, &op)).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
    assert_eq!(answer.status(), Status::Success, "{answer:?}");
    loop {
        let packet = wire::read_packet(&mut socket).expect("packet");
        if let Err(bad) = wire::checksum().verify(&packet.data, &packet.sums) {
            return Some(packet.header.offset_in_block + bad.chunk as u64 * u64::from(wire::CHUNK));
        }
        if packet.header.last_packet_in_block {
            return None;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_flips_while_others_are_overwritten_stays_found_after_kill_9() {
    /// Where nobody writes.
    const QUIET: u64 = 350_000;
    let mut random = Random::seeded();
    let namenode = FakeNamenode::start().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut process = Process::start(&namenode, dir.path()).await;
    for round in 1..=3 {
        let block = Block::new(round, 10);
        let content = pattern(round, LENGTH as usize);
        let mut writer = Writer::open_at(&[process.xfer], block, Stage::PipelineSetupCreate, 10, 0);
        writer.write(0, &content);
        let mut acked = 0;
        let enough = 20 + random.below(100);
        while acked < enough {
            let len = 1 + random.below(9000);
            let offset = random.below(QUIET - 20_000 - len);
            writer.send(offset, &pattern(random.next(), len as usize), random.below(2) == 0);
            if writer.outstanding() > 4 {
                writer.try_ack().expect("acknowledged");
                acked += 1;
            }
        }
        // In the middle of the last ones.
        process.kill();
        let path = crate::find(dir.path(), &block.data_name()).expect("data");
        let file = File::options().read(true).write(true).open(path).expect("opens");
        let mut byte = [0];
        file.read_exact_at(&mut byte, QUIET).expect("read");
        file.write_all_at(&[byte[0] ^ 0x10], QUIET).expect("written");
        process = Process::start(&namenode, dir.path()).await;
        let chunk = QUIET - QUIET % u64::from(wire::CHUNK);
        assert_eq!(first_bad_chunk(process.xfer, block, LENGTH), Some(chunk), "and nothing before it");
        let op = random_op(&[process.xfer], block, Stage::PipelineSetupStreamingRecovery, 11, LENGTH);
        let (_, answer) = Pipeline::open(&[process.xfer], op);
        assert_ne!(answer.status(), Status::Success, "a writer does not go on with it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_overwrites_survive_kill_9_and_every_chunk_fits() {
    let mut random = Random::seeded();
    let namenode = FakeNamenode::start().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut process = Process::start(&namenode, dir.path()).await;
    let mut all: Vec<(Written, Writer)> = (1..=3)
        .map(|id| {
            let block = Block::new(id, 10);
            let model = Model(pattern(id, LENGTH as usize));
            let mut writer = Writer::open_at(&[process.xfer], block, Stage::PipelineSetupCreate, 10, 0);
            writer.write(0, &model.0);
            (Written { block, model, unacknowledged: Vec::new() }, writer)
        })
        .collect();
    for round in 0..ROUNDS {
        let acked = AtomicU64::new(0);
        let enough = 20 + random.below(150);
        std::thread::scope(|scope| {
            for (written, writer) in &mut all {
                let (mut random, acked) = (Random::from(random.next()), &acked);
                scope.spawn(move || written.overwrite(writer, &mut random, acked));
            }
            let deadline = Instant::now() + PATIENCE;
            while acked.load(Ordering::Relaxed) < enough && Instant::now() < deadline {
                std::thread::sleep(Duration::from_micros(200));
            }
            process.kill();
        });
        process = Process::start(&namenode, dir.path()).await;
        let addr = process.xfer;
        let mut next = Vec::new();
        for (mut written, _) in all {
            written.check(addr);
            // The writer goes on: what was not acknowledged is sent again.
            let stage = Stage::PipelineSetupStreamingRecovery;
            let stamp = written.block.stamp + 1;
            let mut writer = Writer::open_at(&[addr], written.block, stage, stamp, LENGTH);
            written.block.stamp = stamp;
            for (offset, data) in std::mem::take(&mut written.unacknowledged) {
                writer.send(offset, &data, false);
                writer.settle();
                written.model.write(offset, &data);
            }
            written.check(addr);
            if round % 2 == 1 {
                writer.close(LENGTH, false);
                written.check(addr);
                let stage = Stage::PipelineSetupAppend;
                writer = Writer::open_at(&[addr], written.block, stage, stamp + 1, LENGTH);
                written.block.stamp = stamp + 1;
            }
            next.push((written, writer));
        }
        all = next;
    }
}
