//! What an administrator orders about datanodes.

use dfs_proto::v1::{AdminState, DatanodeInfo};
use dfs_proto::{ErrorKind, v1};
use log::command::Op;

use super::fixture::{Fixture, storages};
use crate::log;
use crate::namesystem::{Effect, Table};

fn info(ip: &str) -> DatanodeInfo {
    DatanodeInfo { uuid: "dn-1".to_owned(), ip: ip.to_owned(), ..DatanodeInfo::default() }
}

fn register(t: &mut Fixture, ip: &str) {
    let op = log::RegisterDatanodeOp { info: Some(info(ip)), storage_ids: storages(&["s7"]) };
    t.ok(Op::RegisterDatanode(op));
}

fn set(uuid: &str, state: AdminState, until_ns: i64) -> Op {
    Op::SetDatanodeAdmin(log::SetDatanodeAdminOp { uuid: uuid.to_owned(), state: state.into(), until_ns })
}

fn stored(t: &Fixture) -> (AdminState, i64, String) {
    let record = t.snapshot().datanodes().expect("reads").remove(0);
    (record.admin_state(), record.maintenance_until_ns, record.info.unwrap_or_default().ip)
}

#[test]
fn an_order_is_kept_until_the_next_one_and_across_registrations() {
    let mut t = Fixture::new();
    register(&mut t, "10.0.0.1");
    assert_eq!(stored(&t), (AdminState::Normal, 0, "10.0.0.1".to_owned()));
    t.ok(set("dn-1", AdminState::Decommission, 77));
    let effect =
        Effect::DatanodeAdminSet { uuid: "dn-1".into(), state: AdminState::Decommission, remaining_ms: 0 };
    assert_eq!(t.effects, [effect]);
    register(&mut t, "10.0.0.2");
    assert_eq!(stored(&t), (AdminState::Decommission, 0, "10.0.0.2".to_owned()), "an end is for maintenance");
    let until = t.now_ns + 5_000_000_000;
    t.ok(set("dn-1", AdminState::Maintenance, until));
    assert!(matches!(
        t.effects[..],
        [Effect::DatanodeAdminSet { state: AdminState::Maintenance, remaining_ms: 4_000..=5_000, .. }]
    ));
    assert_eq!(stored(&t).0, AdminState::Maintenance);
    assert_eq!(stored(&t).1, until);
    t.ok(set("dn-1", AdminState::Normal, 0));
    assert_eq!(stored(&t).0, AdminState::Normal);
    t.assert_sound();
}

#[test]
fn only_the_superuser_orders_and_only_about_known_datanodes() {
    let mut t = Fixture::new();
    register(&mut t, "10.0.0.1");
    t.refused(set("dn-2", AdminState::Decommission, 0), ErrorKind::InvalidArgument);
    let unknown = log::SetDatanodeAdminOp { uuid: "dn-1".to_owned(), state: 9, until_ns: 0 };
    t.refused(Op::SetDatanodeAdmin(unknown), ErrorKind::InvalidArgument);
    t.become_user("ann", &["staff"]);
    t.refused(set("dn-1", AdminState::Decommission, 0), ErrorKind::NotPermitted);
    let bandwidth = log::SetRepairBandwidthOp { bytes_per_second: 1 };
    t.refused(Op::SetRepairBandwidth(bandwidth), ErrorKind::NotPermitted);
    assert_eq!(stored(&t).0, AdminState::Normal);
}

#[test]
fn the_bandwidth_of_repair_is_kept() {
    let mut t = Fixture::new();
    assert_eq!(t.snapshot().repair_bandwidth().expect("reads"), 0);
    t.ok(Op::SetRepairBandwidth(log::SetRepairBandwidthOp { bytes_per_second: 300 }));
    assert_eq!(t.effects, [Effect::RepairBandwidthSet { bytes_per_second: 300 }]);
    assert_eq!(t.snapshot().repair_bandwidth().expect("reads"), 300);
}

#[test]
fn a_datanode_is_removed_by_the_superuser() {
    let mut t = Fixture::new();
    register(&mut t, "10.0.0.1");
    let remove = |uuid: &str| Op::RemoveDatanode(log::RemoveDatanodeOp { uuid: uuid.to_owned() });
    t.refused(remove("dn-2"), ErrorKind::InvalidArgument);
    t.ok(remove("dn-1"));
    assert_eq!(t.effects, [Effect::DatanodeRemoved { uuid: "dn-1".to_owned() }]);
    assert_eq!(t.snapshot().datanodes().expect("reads").len(), 0);
    t.refused(remove("dn-1"), ErrorKind::InvalidArgument);
    register(&mut t, "10.0.0.1");
    assert_eq!(t.snapshot().datanodes().expect("reads").len(), 1);
    t.become_user("ann", &["staff"]);
    t.refused(remove("dn-1"), ErrorKind::NotPermitted);
}

#[test]
fn golden_bytes_of_a_datanode_and_of_the_bandwidth() {
    let mut t = Fixture::new();
    // As versions without administration wrote it: a RegisterDatanodeOp.
    register(&mut t, "10.0.0.1");
    let before = [
        &[1u8][..],          // version
        &[0x0a, 16],         // info
        b"\x0a\x04dn-1",     // uuid
        b"\x12\x0810.0.0.1", // ip
        b"\x12\x02s7",       // storage
    ]
    .concat();
    let row = |t: &Fixture, table, key: &[u8]| {
        let view = t.store.view();
        view.get(table, key).expect("reads").expect("a row").value().to_vec()
    };
    assert_eq!(row(&t, Table::Datanodes, b"dn-1"), before);
    t.ok(set("dn-1", AdminState::Maintenance, 300));
    let after = [&before[..], &[0x18, 2], &[0x20, 0xac, 0x02]].concat();
    assert_eq!(row(&t, Table::Datanodes, b"dn-1"), after);
    t.ok(Op::SetRepairBandwidth(log::SetRepairBandwidthOp { bytes_per_second: 300 }));
    assert_eq!(row(&t, Table::Meta, b"repair_bandwidth"), [1, 0x08, 0xac, 0x02]);
    assert_eq!(v1::AdminState::try_from(2), Ok(AdminState::Maintenance));
}
