//! How administrators name a datanode: by its address, host name, uuid, or host and port.

use anyhow::bail;
use dfs_client::DatanodeInfo;

use crate::session::Session;

/// Forms that a name may have, for help.
pub const FORMS: &str = "HOST[:PORT]|UUID";

/// The datanode that `name` stands for.
pub async fn find(session: &Session, name: &str) -> anyhow::Result<DatanodeInfo> {
    let all: Vec<DatanodeInfo> =
        session.client.datanodes().await?.into_iter().filter_map(|report| report.info).collect();
    let mut found: Vec<&DatanodeInfo> = all.iter().filter(|info| is_named(info, name)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only.clone()),
        (Some(_), false) => {
            bail!("`{name}': several datanodes are there: name one with its port ({})", names(&all, name))
        }
        (None, _) => bail!("`{name}': no such datanode"),
    }
}

fn names(all: &[DatanodeInfo], name: &str) -> String {
    let matching = all.iter().filter(|info| is_named(info, name));
    matching.map(|info| format!("{}:{}", info.ip, info.xfer_port)).collect::<Vec<_>>().join(", ")
}

fn is_named(info: &DatanodeInfo, name: &str) -> bool {
    let at = |host: &str| name == host || name == format!("{host}:{}", info.xfer_port);
    name == info.uuid || at(&info.ip) || at(&info.hostname)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datanode_has_several_names() {
        let info = DatanodeInfo {
            uuid: "u-1".into(),
            ip: "10.0.0.1".into(),
            hostname: "dn1".into(),
            xfer_port: 9866,
            ..DatanodeInfo::default()
        };
        for name in ["u-1", "10.0.0.1", "dn1", "dn1:9866", "10.0.0.1:9866"] {
            assert!(is_named(&info, name), "{name}");
        }
        for name in ["dn2", "dn1:9867", "10.0.0.1:", "u", ""] {
            assert!(!is_named(&info, name), "{name}");
        }
    }
}
