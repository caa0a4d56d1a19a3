//! Distance between network locations such as `/dc1/rack2`.
//!
//! As in HDFS, nodes are the leaves of a tree and the distance is the number of edges between two of
//! them: 0 on the same node, 2 on the same rack, 4 on another rack of the same data centre, and so on.

/// Distance of a datanode from a reader on the same machine.
pub(super) const SAME_NODE: u32 = 0;

/// Distance when nothing is known about the reader's place.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// Rack of nodes that name none.
pub(super) const DEFAULT_RACK: &str = "/default-rack";

/// One spelling a rack: a leading slash, no trailing one, no empty parts.
pub(super) fn normalized(rack: &str) -> String {
    let parts: Vec<&str> = rack.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { DEFAULT_RACK.to_owned() } else { format!("/{}", parts.join("/")) }
}

/// Data centre of a (normalized) rack: what is above the rack itself; empty for racks of one level, which are all in
/// one place.
pub(super) fn site(rack: &str) -> &str {
    rack.rsplit_once('/').map_or("", |(above, _)| above)
}

/// Distance between two different nodes on these (normalized) racks.
pub(super) fn distance(a: &str, b: &str) -> u32 {
    let parts = |rack: &str| rack.split('/').filter(|part| !part.is_empty()).count();
    let common = a
        .split('/')
        .filter(|part| !part.is_empty())
        .zip(b.split('/').filter(|part| !part.is_empty()))
        .take_while(|(left, right)| left == right)
        .count();
    let edges = parts(a) - common + parts(b) - common + 2;
    u32::try_from(edges).unwrap_or(UNKNOWN - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edges_of_the_tree() {
        for (a, b, expected) in [
            ("/default-rack", "/default-rack", 2),
            ("/dc1/rack1", "/dc1/rack1", 2),
            ("/dc1/rack1", "/dc1/rack2", 4),
            ("/dc1/rack1", "/dc2/rack1", 6),
            ("/rack1", "/dc2/rack1", 5),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_site_is_what_is_above_the_rack() {
        for (rack, expected) in
            [("/default-rack", ""), ("/r1", ""), ("/dc1/r1", "/dc1"), ("/eu/dc1/r1", "/eu/dc1")]
        {
            assert_eq!(site(rack), expected, "{rack}");
        }
    }

    #[test]
    fn racks_have_one_spelling() {
        assert_eq!(normalized("dc1//rack1/"), "/dc1/rack1");
        assert_eq!(normalized("/"), DEFAULT_RACK);
        assert_eq!(normalized(""), DEFAULT_RACK);
    }
}
