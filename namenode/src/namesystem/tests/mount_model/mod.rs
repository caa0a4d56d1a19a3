//! Random operations of mounts and path clients, by several users, against a model by inode: names, attributes
//! and times as POSIX says, and which bytes of a file have blocks.
//!
//! The model predicts each outcome. After each step every node is compared and the invariants are checked; in the
//! end all commands are applied to another store, which must be the same.

mod files;
mod nodes;
mod reserved;
mod steps;

use dfs_proto::InodeId;
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use super::model::Random;
use crate::log;
use crate::namesystem::{Effect, NamesystemError};
use nodes::Model;
use reserved::Reserved;

const STEPS: usize = 1_500;

/// Users and their groups. The first one is the superuser.
const USERS: [(&str, &[&str]); 3] =
    [("root", &["root"]), ("ann", &["ann", "team"]), ("bob", &["bob", "team"])];

/// A store, the model of it, and all commands so far.
struct World {
    t: Fixture,
    model: Model,
    random: Random,
    reserved: Reserved,
    commands: Vec<log::Command>,
    effects: Vec<Effect>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut t = Fixture::new();
        t.ok(chmod("/", 0o777));
        let root = t.stat("/");
        let model = Model::new(&root);
        let (random, reserved) = (Random::new(seed), Reserved::default());
        Self { t, model, random, reserved, commands: Vec::new(), effects: Vec::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn become_anybody(&mut self) {
        let (user, groups) = *self.random.pick(&USERS);
        self.t.become_user(user, groups);
    }

    fn run(&mut self, op: Op) -> Result<Reply, NamesystemError> {
        let command = self.t.command(op);
        let applied = self.t.apply(&command);
        self.commands.push(command);
        self.effects = applied.effects;
        applied.outcome.map(|reply| reply.reply.expect("a reply"))
    }

    /// Compares an outcome with what the model expects; answers the reply of a success.
    #[track_caller]
    fn agree(&mut self, op: Op, expected: Result<(), dfs_proto::ErrorKind>) -> Option<Reply> {
        let what = format!("{} {op:?}", self.t.caller.user);
        match (expected, self.run(op)) {
            (Ok(()), Ok(reply)) => Some(reply),
            (Err(kind), Err(error)) if error.kind() == kind => None,
            (expected, got) => panic!("{what}: expected {expected:?}, got {got:?}"),
        }
    }

    /// Every node of the model, seen by the superuser, and nothing else.
    fn compare(&mut self) {
        let root = caller("root", &[]);
        let snapshot = self.t.snapshot();
        for (id, node) in &self.model.nodes {
            let status = snapshot.stat(&root, &below(*id, "")).expect("the model has it");
            node.assert_is(*id, &status);
        }
        assert_eq!(snapshot.counts().expect("reads").0, self.model.nodes.len() as u64);
        let orphans = snapshot.orphans(InodeId(0), 1_000).expect("reads");
        assert_eq!(orphans, self.model.orphans.iter().map(|id| InodeId(*id)).collect::<Vec<_>>());
        for (id, node) in self.model.nodes.iter().filter(|(_, n)| n.is_directory() && n.nlink > 0) {
            let (page, _) = snapshot.list(&root, &below(*id, ""), b"", 0).expect("a directory");
            let found: Vec<_> = page.iter().map(|s| (s.name.to_vec(), s.inode)).collect();
            assert_eq!(found, self.model.list(*id), "{node:?}");
        }
        self.t.assert_sound();
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        steps::step(&mut world);
        world.compare();
    }
    let mut replayed = World::new(seed);
    for command in &world.commands {
        replayed.t.apply(command);
    }
    let digest = |world: &World| world.t.snapshot().digest().expect("reads");
    assert_eq!(digest(&replayed), digest(&world));
}

#[test]
fn random_operations_agree_with_the_model() {
    for seed in [3, 20_262, 888_888] {
        run(seed);
    }
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after the epoch")
        .as_nanos();
    run(u64::try_from(seed & u128::from(u64::MAX)).expect("masked"));
}
