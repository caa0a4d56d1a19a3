//! Tests of what is known of delegated directories, beside a plain model of a namespace.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::v1::{FileStatus, FileType, MoveMode};
use proptest::prelude::*;

use super::node_changes::{FileShape, Moment};
use super::nodes::{Grant, MAX_DIRECTORIES, MAX_ENTRIES, Nodes, Verdict};
use crate::fs::{Caller, NewNode, SetAttributes, SetTime};

const DIR: u64 = 10;
const SHAPE: FileShape = FileShape { replication: 3, block_size: 1 << 20, lease: false };

fn anne() -> Caller {
    Caller { user: "anne".into(), groups: [String::from("staff")].into() }
}

fn moment(now_ns: i64) -> Moment {
    Moment { at: Instant::now(), now_ns }
}

fn status(inode: u64, name: &str, kind: FileType) -> FileStatus {
    FileStatus {
        inode,
        name: Bytes::copy_from_slice(name.as_bytes()),
        r#type: kind.into(),
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        owner: "anne".into(),
        group: "staff".into(),
        mode: 0o755,
        change: 5,
        ctime_ns: 100,
        ..FileStatus::default()
    }
}

fn grant(nodes: &mut Nodes, dir: u64, entries: Vec<FileStatus>) {
    let directory = FileStatus { name: Bytes::new(), ..status(dir, "", FileType::Directory) };
    let grant = Grant { caller: anne(), shared: false, directory, entries, epoch: 7, asked: Instant::now() };
    nodes.grant(grant, &HashMap::new(), Instant::now());
    nodes.check();
}

fn with(entries: Vec<FileStatus>) -> Nodes {
    let mut nodes = Nodes::default();
    grant(&mut nodes, DIR, entries);
    nodes
}

fn new(kind: FileType) -> NewNode {
    NewNode::new(kind, 0o644, "staff")
}

fn make(nodes: &mut Nodes, name: &str, kind: FileType, inode: u64) -> Verdict<FileStatus> {
    let made = nodes.make(&anne(), (DIR, name.as_bytes()), &new(kind), SHAPE, moment(1_000), || Some(inode));
    nodes.check();
    match made {
        Verdict::Given(outcome) => Verdict::Given(outcome.map(|done| done.status)),
        Verdict::Ask => Verdict::Ask,
    }
}

fn kind_of<T>(verdict: Verdict<T>) -> Option<ErrorKind> {
    match verdict {
        Verdict::Given(Err(kind)) => Some(kind),
        Verdict::Given(Ok(_)) | Verdict::Ask => None,
    }
}

fn stat(nodes: &Nodes, inode: u64) -> Option<FileStatus> {
    match nodes.stat(inode) {
        Verdict::Given(Ok(status)) => Some(status),
        Verdict::Given(Err(_)) | Verdict::Ask => None,
    }
}

#[test]
fn a_new_file_is_there_at_once_and_shows_in_its_directory() {
    let mut nodes = with(vec![status(11, "a", FileType::File)]);
    let Verdict::Given(Ok(made)) = make(&mut nodes, "b", FileType::File, 20) else { panic!("made") };
    assert_eq!((made.inode, made.change, made.nlink, made.mode), (20, 1, 1, 0o644));
    assert_eq!((&*made.owner, &*made.group, made.mtime_ns), ("anne", "staff", 1_000));
    assert_eq!(nodes.look_up(&anne(), DIR, b"b"), Verdict::Given(Ok(made)));
    let dir = stat(&nodes, DIR).expect("firm");
    assert_eq!((dir.change, dir.mtime_ns, dir.ctime_ns, dir.nlink), (6, 1_000, 1_000, 2));
    assert_eq!(kind_of(make(&mut nodes, "b", FileType::File, 21)), Some(ErrorKind::AlreadyExists));
    let (listed, more) = nodes.list(&anne(), DIR, b"", 10).expect("known");
    assert_eq!(listed.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    assert!(!more);
    let (listed, more) = nodes.list_names(&anne(), DIR, b"", 1).expect("known");
    assert_eq!((listed.len(), listed[0].inode, &*listed[0].name, more), (1, 11, &b"a"[..], true));
    let (listed, more) = nodes.list_names(&anne(), DIR, b"a", 1).expect("known");
    assert_eq!((listed.len(), listed[0].inode, &*listed[0].name, more), (1, 20, &b"b"[..], false));
}

#[test]
fn what_the_rules_do_not_cover_is_asked() {
    let mut nodes = with(Vec::new());
    let (bob, at) = (Caller::named("bob"), (DIR, &b"x"[..]));
    let mut ask = |caller: &Caller, at: (u64, &[u8]), node: NewNode| {
        nodes.make(caller, at, &node, SHAPE, moment(1), || panic!("no number is needed")) == Verdict::Ask
    };
    assert!(ask(&bob, at, new(FileType::File)), "another caller");
    assert!(ask(&anne(), (DIR + 1, b"x"), new(FileType::File)), "not delegated");
    assert!(ask(&anne(), at, new(FileType::CharDevice)));
    assert!(ask(&anne(), at, NewNode { mode: 0o4755, ..new(FileType::File) }));
    assert!(ask(&anne(), at, NewNode { mode: 0o1777, ..new(FileType::Directory) }));
    assert!(ask(&anne(), at, NewNode { group: "wheel".into(), ..new(FileType::File) }));
    assert!(ask(&anne(), at, NewNode { symlink: Bytes::new(), ..new(FileType::Symlink) }));
    for name in [&b""[..], b".", b"..", b"a/b", b"\0", &[b'n'; 256]] {
        assert!(ask(&anne(), (DIR, name), new(FileType::File)));
        assert_eq!(nodes_ask(name), Verdict::Ask);
    }
}

fn nodes_ask(name: &[u8]) -> Verdict<FileStatus> {
    with(Vec::new()).look_up(&anne(), DIR, name)
}

#[test]
fn a_directory_is_removed_only_if_it_is_known_to_be_empty() {
    let mut nodes = with(vec![status(11, "far", FileType::Directory), status(12, "f", FileType::File)]);
    let remove = |nodes: &mut Nodes, name: &[u8], directory| {
        let removed = nodes.unlink(&anne(), (DIR, name), directory, moment(2_000));
        nodes.check();
        removed
    };
    assert_eq!(remove(&mut nodes, b"far", true), Verdict::Ask);
    assert_eq!(kind_of(remove(&mut nodes, b"far", false)), Some(ErrorKind::IsADirectory));
    assert_eq!(kind_of(remove(&mut nodes, b"f", true)), Some(ErrorKind::NotADirectory));
    assert_eq!(kind_of(remove(&mut nodes, b"no", true)), Some(ErrorKind::NotFound));
    grant(&mut nodes, 11, vec![status(30, "x", FileType::File)]);
    assert_eq!(kind_of(remove(&mut nodes, b"far", true)), Some(ErrorKind::DirectoryNotEmpty));
    nodes.unlink(&anne(), (11, b"x"), false, moment(1_500));
    let Verdict::Given(Ok(gone)) = remove(&mut nodes, b"far", true) else { panic!("removed") };
    assert_eq!((gone.status.nlink, gone.status.change, gone.status.ctime_ns), (0, 7, 2_000));
    assert!(!nodes.is_delegated(11) && stat(&nodes, 11).is_none());
    assert_eq!(stat(&nodes, DIR).expect("firm").nlink, 1, "one directory less than it was granted with");
    let Verdict::Given(Ok(gone)) = remove(&mut nodes, b"f", false) else { panic!("removed") };
    assert_eq!((gone.status.inode, gone.status.nlink), (12, 0));
}

#[test]
fn renames_replace_by_the_rules() {
    let entries = vec![status(11, "a", FileType::File), status(12, "b", FileType::File)];
    let mut nodes = with(entries);
    let rename = |nodes: &mut Nodes, from: &[u8], to: &[u8], mode| {
        let moved = nodes.rename(&anne(), (DIR, from), (DIR, to), mode, moment(3_000));
        nodes.check();
        moved
    };
    let replace = MoveMode::Replace;
    assert_eq!(kind_of(rename(&mut nodes, b"no", b"x", replace)), Some(ErrorKind::NotFound));
    let taken = rename(&mut nodes, b"a", b"b", MoveMode::NoReplace);
    assert_eq!(kind_of(taken), Some(ErrorKind::AlreadyExists));
    assert_eq!(rename(&mut nodes, b"a", b"b", MoveMode::Exchange), Verdict::Ask);
    let Verdict::Given(Ok(done)) = rename(&mut nodes, b"a", b"b", replace) else { panic!("moved") };
    assert_eq!((done.status.inode, done.status.change), (11, 6));
    assert_eq!(done.other.map(|other| (other.inode, other.nlink)), Some((12, 0)));
    assert_eq!(stat(&nodes, DIR).expect("firm").change, 8, "a name went twice and one came");
    assert!(matches!(make(&mut nodes, "d", FileType::Directory, 20), Verdict::Given(Ok(_))));
    assert_eq!(kind_of(rename(&mut nodes, b"d", b"b", replace)), Some(ErrorKind::NotADirectory));
    assert_eq!(kind_of(rename(&mut nodes, b"b", b"d", replace)), Some(ErrorKind::IsADirectory));
    assert!(matches!(rename(&mut nodes, b"d", b"e", replace), Verdict::Given(Ok(_))));
    assert!(matches!(nodes.look_up(&anne(), DIR, b"e"), Verdict::Given(Ok(_))));
}

#[test]
fn modes_and_times_of_what_the_caller_owns_are_set() {
    let other = FileStatus { owner: "bob".into(), ..status(12, "b", FileType::File) };
    let special = FileStatus { mode: 0o4755, ..status(13, "c", FileType::File) };
    let mut nodes = with(vec![status(11, "a", FileType::File), other, special]);
    let mode = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    let times =
        SetAttributes { atime: Some(SetTime::At(1)), mtime: Some(SetTime::Now), ..SetAttributes::default() };
    let mut set = |inode, set: &SetAttributes| nodes.set(&anne(), inode, set, moment(4_000));
    let Verdict::Given(Ok(done)) = set(11, &mode) else { panic!("set") };
    assert_eq!((done.status.mode, done.status.ctime_ns, done.status.change), (0o600, 4_000, 6));
    let Verdict::Given(Ok(done)) = set(11, &times) else { panic!("set") };
    assert_eq!((done.status.atime_ns, done.status.mtime_ns, done.status.change), (1, 4_000, 7));
    let owner = |owner: &str| SetAttributes {
        owner: Some(owner.to_owned()),
        group: Some("staff".to_owned()),
        kill_privileges: true,
        ..SetAttributes::default()
    };
    let Verdict::Given(Ok(done)) = set(11, &owner("anne")) else { panic!("set") };
    assert_eq!((done.status.mode, done.status.change), (0o600, 8), "as it was");
    assert_eq!(set(11, &owner("bob")), Verdict::Ask);
    assert_eq!(set(12, &mode), Verdict::Ask, "somebody else's");
    assert_eq!(set(13, &mode), Verdict::Ask, "runs as its owner");
    assert_eq!(set(11, &SetAttributes::default()), Verdict::Ask);
    assert_eq!(set(11, &SetAttributes { size: Some(0), ..SetAttributes::default() }), Verdict::Ask);
    assert_eq!(set(DIR, &SetAttributes { mode: Some(0o500), ..SetAttributes::default() }), Verdict::Ask);
    assert!(matches!(set(DIR, &SetAttributes { mode: Some(0o711), ..mode }), Verdict::Given(Ok(_))));
}

#[test]
fn doubts_end_with_an_answer_to_a_question_that_was_asked_later() {
    let linked = FileStatus { nlink: 2, ..status(12, "l", FileType::File) };
    let written = FileStatus { under_construction: true, ..status(13, "w", FileType::File) };
    let mut nodes = with(vec![status(11, "a", FileType::File), linked, written.clone()]);
    assert!(stat(&nodes, 12).is_none() && stat(&nodes, 13).is_none());
    let told = |nodes: &mut Nodes, status: &FileStatus, moment, ours| nodes.told(status, moment, ours);
    let now = nodes.moment();
    told(&mut nodes, &written, now, false);
    assert!(stat(&nodes, 13).is_none(), "somebody else writes it");
    told(&mut nodes, &written, now, true);
    assert!(stat(&nodes, 13).is_some());
    let (older, newer) = (
        FileStatus { change: 4, ..status(11, "", FileType::File) },
        FileStatus { change: 6, ..status(11, "", FileType::File) },
    );
    told(&mut nodes, &older, now, false);
    assert_eq!(stat(&nodes, 11).expect("firm").change, 5);
    let asked = nodes.moment();
    nodes.doubt(11);
    told(&mut nodes, &newer, asked, false);
    assert!(stat(&nodes, 11).is_none(), "asked before");
    let asked = nodes.moment();
    told(&mut nodes, &newer, asked, false);
    assert_eq!(stat(&nodes, 11).expect("firm").change, 6);
    nodes.check();
}

#[test]
fn what_was_heard_while_a_directory_was_asked_for_counts() {
    let mut nodes = Nodes::default();
    let newer = FileStatus { change: 9, size: 3, ..status(11, "", FileType::File) };
    let heard = HashMap::from([(11, Some(newer)), (12, None)]);
    let entries = vec![status(11, "a", FileType::File), status(12, "b", FileType::File)];
    let directory = status(DIR, "", FileType::Directory);
    let grant = Grant { caller: anne(), shared: false, directory, entries, epoch: 7, asked: Instant::now() };
    nodes.grant(grant, &heard, Instant::now());
    assert_eq!(stat(&nodes, 11).map(|status| status.size), Some(3));
    assert!(stat(&nodes, 12).is_none());
}

#[test]
fn a_directory_below_keeps_its_own_delegation() {
    let mut nodes = with(vec![status(11, "d", FileType::Directory), status(12, "f", FileType::File)]);
    grant(&mut nodes, 11, Vec::new());
    assert!(stat(&nodes, 11).is_some());
    assert!(nodes.forget(DIR) && !nodes.forget(DIR));
    nodes.check();
    assert!(stat(&nodes, 11).is_some() && stat(&nodes, 12).is_none() && stat(&nodes, DIR).is_none());
    grant(&mut nodes, DIR, vec![status(11, "d", FileType::Directory)]);
    nodes.forget(11);
    nodes.check();
    assert!(stat(&nodes, 11).is_none(), "others may change it now");
    assert_eq!(nodes.look_up(&anne(), DIR, b"d"), Verdict::Ask);
    assert_eq!(nodes.not_of_epoch(7), Vec::<u64>::new());
    assert_eq!(nodes.not_of_epoch(8), [DIR]);
}

#[test]
fn a_directory_for_reading_answers_questions_and_takes_no_changes() {
    let mut nodes = with(Vec::new());
    let grant = Grant {
        caller: anne(),
        shared: true,
        directory: status(20, "", FileType::Directory),
        entries: vec![status(21, "f", FileType::File)],
        epoch: 7,
        asked: Instant::now(),
    };
    nodes.grant(grant, &HashMap::new(), Instant::now());
    nodes.check();
    assert!(matches!(nodes.look_up(&anne(), 20, b"f"), Verdict::Given(Ok(found)) if found.inode == 21));
    assert_eq!(nodes.look_up(&anne(), 20, b"no"), Verdict::Given(Err(ErrorKind::NotFound)));
    assert_eq!(
        nodes.list(&anne(), 20, b"", 10).map(|(entries, more)| (entries.len(), more)),
        Some((1, false))
    );
    assert_eq!(nodes.look_up(&Caller::named("ben"), 20, b"f"), Verdict::Ask);
    let made = nodes.make(&anne(), (20, b"g"), &new(FileType::File), SHAPE, moment(1), || Some(99));
    assert_eq!(made, Verdict::Ask);
    assert_eq!(nodes.unlink(&anne(), (20, b"f"), false, moment(1)), Verdict::Ask);
    let set = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    assert_eq!(nodes.set(&anne(), 21, &set, moment(1)), Verdict::Ask);
    // In one that the session has alone, too: others may have this one for reading.
    make(&mut nodes, "sub", FileType::Directory, 30);
    nodes.directories.get_mut(&30).expect("delegated").shared = true;
    assert_eq!(nodes.unlink(&anne(), (DIR, b"sub"), true, moment(1)), Verdict::Ask);
    assert_eq!(nodes.set(&anne(), 30, &set, moment(1)), Verdict::Ask);
    let moved = nodes.rename(&anne(), (DIR, b"sub"), (DIR, b"b"), MoveMode::Replace, moment(1));
    assert_eq!(moved, Verdict::Ask);
}

#[test]
fn bounds_give_up_what_was_not_changed_for_longest() {
    let (mut nodes, begin) = (Nodes::default(), Instant::now());
    for dir in 1..=MAX_DIRECTORIES as u64 + 1 {
        let grant = Grant {
            caller: anne(),
            shared: false,
            directory: status(dir, "", FileType::Directory),
            entries: Vec::new(),
            epoch: 7,
            asked: Instant::now(),
        };
        nodes.grant(grant, &HashMap::new(), begin + Duration::from_secs(dir));
    }
    let surplus = nodes.surplus();
    assert_eq!((surplus[0], surplus.len()), (1, MAX_DIRECTORIES / 8 + 1));
    surplus.iter().for_each(|dir| assert!(nodes.forget(*dir)));
    assert!(nodes.surplus().is_empty());
    assert_eq!(nodes.idle_since(begin + Duration::from_secs(surplus.len() as u64 + 2)).len(), 1);
    let mut nodes = with(Vec::new());
    for inode in 0..=MAX_ENTRIES as u64 {
        nodes.make(
            &anne(),
            (DIR, format!("{inode}").as_bytes()),
            &new(FileType::File),
            SHAPE,
            moment(1),
            || Some(inode + 100),
        );
    }
    assert_eq!(nodes.surplus(), [DIR]);
}

/// A change of the one directory, by names of a few.
#[derive(Clone, Debug)]
enum Step {
    Make(u8, bool),
    Unlink(u8, bool),
    Rename(u8, u8, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..6u8;
    let step = prop_oneof![
        (name.clone(), any::<bool>()).prop_map(|(name, directory)| Step::Make(name, directory)),
        (name.clone(), any::<bool>()).prop_map(|(name, directory)| Step::Unlink(name, directory)),
        (name.clone(), name, any::<bool>()).prop_map(|(from, to, replace)| Step::Rename(from, to, replace)),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn names_are_those_of_a_plain_map(steps in steps()) {
        let (mut nodes, mut model) = (with(Vec::new()), BTreeMap::<u8, (u64, bool)>::new());
        let mut changes = 5;
        for (step, number) in steps.into_iter().zip(100u64..) {
            let is_directory = |entry: Option<&(u64, bool)>| entry.map(|(_, directory)| *directory);
            let (answer, wanted) = match step {
                Step::Make(name, directory) => {
                    let kind = if directory { FileType::Directory } else { FileType::File };
                    let exists = model.contains_key(&name).then_some(ErrorKind::AlreadyExists);
                    if exists.is_none() {
                        model.insert(name, (number, directory));
                        changes += 1;
                    }
                    let made = nodes.make(&anne(), (DIR, &[name + b'a']), &new(kind), SHAPE, moment(1), || Some(number));
                    (made, exists)
                }
                Step::Unlink(name, directory) => {
                    let refused = match (is_directory(model.get(&name)), directory) {
                        (None, _) => Some(ErrorKind::NotFound),
                        (Some(true), false) => Some(ErrorKind::IsADirectory),
                        (Some(false), true) => Some(ErrorKind::NotADirectory),
                        (Some(true), true) | (Some(false), false) => None,
                    };
                    if refused.is_none() {
                        model.remove(&name);
                        changes += 1;
                    }
                    (nodes.unlink(&anne(), (DIR, &[name + b'a']), directory, moment(1)), refused)
                }
                Step::Rename(from, to, _) if from == to => continue,
                Step::Rename(from, to, replace) => {
                    let mode = if replace { MoveMode::Replace } else { MoveMode::NoReplace };
                    let refused = match (is_directory(model.get(&from)), is_directory(model.get(&to))) {
                        (None, _) => Some(ErrorKind::NotFound),
                        (Some(_), Some(_)) if !replace => Some(ErrorKind::AlreadyExists),
                        (Some(true), Some(false)) => Some(ErrorKind::NotADirectory),
                        (Some(false), Some(true)) => Some(ErrorKind::IsADirectory),
                        (Some(_), None | Some(_)) => None,
                    };
                    if refused.is_none() {
                        changes += 2 + u64::from(model.contains_key(&to));
                        let moved = model.remove(&from).expect("there");
                        model.insert(to, moved);
                    }
                    let (from, to) = ([from + b'a'], [to + b'a']);
                    (nodes.rename(&anne(), (DIR, &from), (DIR, &to), mode, moment(1)), refused)
                }
            };
            prop_assert_eq!(kind_of(answer.clone()), wanted);
            prop_assert!(answer != Verdict::Ask);
            nodes.check();
            let (listed, _) = nodes.list(&anne(), DIR, b"", 100).expect("known");
            let listed: Vec<(u8, u64)> = listed.iter().map(|entry| (entry.name[0] - b'a', entry.inode)).collect();
            let there: Vec<(u8, u64)> = model.iter().map(|(name, (inode, _))| (*name, *inode)).collect();
            prop_assert_eq!(listed, there);
            let dir = stat(&nodes, DIR).expect("firm");
            let directories = model.values().filter(|(_, directory)| *directory).count() as u32;
            prop_assert_eq!((dir.change, dir.nlink), (changes, 2 + directories));
        }
    }
}
