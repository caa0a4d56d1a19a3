//! Where users' trash is, and how old its checkpoints are.
//!
//! What a user removes goes to `/user/NAME/.Trash/Current`, below which it keeps its path. Now and then Current becomes a
//! checkpoint, a directory beside it that is named after the time (`YYMMDDHHMMSS`, UTC), and old checkpoints are deleted:
//! names and meanings are HDFS's.
//!
//! Names tell people the time; ages are told by the **trash clock**, which only counts time that a namenode saw pass. So a
//! clock that is set, however far and in whichever direction, deletes nothing early, and neither does a checkpoint's name.
//! While no namenode runs, nothing in the trash gets older.
//!
//! Row of the table `trash`, one a checkpoint, integers little-endian:
//!
//! | offset | size | field                                     |
//! |--------|------|-------------------------------------------|
//! | 0      | 1    | version, 1                                |
//! | 1      | 8    | trash clock in ms when it was first known |
//!
//! Record `trash` of the table `meta`:
//!
//! | offset | size | field                                                     |
//! |--------|------|-----------------------------------------------------------|
//! | 0      | 1    | version, 1                                                |
//! | 1      | 8    | trash clock in ms                                         |
//! | 9      | 8    | the clock when checkpoints were made for everybody        |

use dfs_proto::InodeId;

use super::error::{RecordFault, StoreError};
use super::inode::Inode;
use super::keys;
use super::rows::Rows;
use super::tables::{Table, Tables};

/// Directory of users' home directories.
pub(super) const HOMES: &[u8] = b"user";

/// Name of the trash in a home directory.
pub(super) const TRASH: &[u8] = b".Trash";

/// Where removed nodes go first.
pub(super) const CURRENT: &[u8] = b"Current";

const VERSION: u8 = 1;
const KEY: &[u8] = b"trash";

/// Lengths of a checkpoint's time: HDFS once wrote it without seconds.
const TIME_DIGITS: [usize; 2] = [10, 12];

/// The trash clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TrashClock {
    /// Milliseconds that namenodes saw pass.
    pub(super) now_ms: u64,
    /// When checkpoints were made for everybody.
    pub(super) round_ms: u64,
}

impl TrashClock {
    /// The clock as it stands.
    pub(super) fn read(rows: &impl Rows) -> Result<Self, StoreError> {
        match rows.get(Table::Meta, KEY)? {
            Some(raw) => Self::decode(raw.value()),
            None => Ok(Self::default()),
        }
    }

    /// Sets the clock.
    pub(super) fn write(self, tables: &mut Tables<'_>) {
        tables.insert(Table::Meta, KEY, &self.encode());
    }

    fn encode(self) -> [u8; 17] {
        let mut out = [VERSION; 17];
        out[1..9].copy_from_slice(&self.now_ms.to_le_bytes());
        out[9..].copy_from_slice(&self.round_ms.to_le_bytes());
        out
    }

    fn decode(raw: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |fault| StoreError::Corrupt { table: Table::Meta.name(), key: KEY.to_vec(), fault };
        match raw {
            [VERSION, words @ ..] => {
                let (now, round) =
                    words.split_first_chunk::<8>().ok_or_else(|| corrupt(RecordFault::Length(raw.len())))?;
                let round =
                    <[u8; 8]>::try_from(round).map_err(|_| corrupt(RecordFault::Length(raw.len())))?;
                Ok(Self { now_ms: u64::from_le_bytes(*now), round_ms: u64::from_le_bytes(round) })
            }
            [version, ..] => Err(corrupt(RecordFault::Version(*version))),
            [] => Err(corrupt(RecordFault::Length(0))),
        }
    }
}

/// Value of a row of the table `trash`.
pub(super) fn encode_born(born_ms: u64) -> [u8; 9] {
    let mut out = [VERSION; 9];
    out[1..].copy_from_slice(&born_ms.to_le_bytes());
    out
}

/// Trash clock when a checkpoint was first known, from its row.
pub(super) fn decode_born(key: &[u8], raw: &[u8]) -> Result<u64, StoreError> {
    match raw {
        [VERSION, a, b, c, d, e, f, g, h] => Ok(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        other => Err(StoreError::Corrupt {
            table: Table::Trash.name(),
            key: key.to_vec(),
            fault: RecordFault::Length(other.len()),
        }),
    }
}

/// Trash clock when a checkpoint was first known; `None` if it is not.
pub(super) fn born(rows: &impl Rows, checkpoint: InodeId) -> Result<Option<u64>, StoreError> {
    let key = keys::inode(checkpoint);
    rows.get(Table::Trash, &key)?.map(|raw| decode_born(&key, raw.value())).transpose()
}

/// Whether a directory of the trash with this name is a checkpoint.
pub(super) fn is_checkpoint(name: &[u8]) -> bool {
    let (time, again) = match name.iter().position(|byte| *byte == b'-') {
        Some(dash) => (&name[..dash], Some(&name[dash + 1..])),
        None => (name, None),
    };
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    TIME_DIGITS.contains(&time.len()) && digits(time) && again.is_none_or(digits)
}

/// Name of a checkpoint that is made at a time: `YYMMDDHHMMSS` in UTC.
pub(super) fn checkpoint_name(now_ns: i64) -> String {
    let seconds = now_ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1 March of the year 0, in eras of 400 years: leap days come last in their years then.
    let days = days + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let (month, later) = if from_march < 10 { (from_march + 3, 0) } else { (from_march - 9, 1) };
    let year = (year_of_era + later) % 100;
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:02}{month:02}{day:02}{hour:02}{minute:02}{:02}", second % 60)
}

/// The trash directory of a user, if there is one.
pub(super) fn directory(rows: &impl Rows, user: &[u8]) -> Result<Option<Inode>, StoreError> {
    let mut at = InodeId::ROOT;
    for name in [HOMES, user, TRASH] {
        match rows.entry(at, name)? {
            Some(entry) if entry.kind == dfs_proto::v1::FileType::Directory => at = entry.inode,
            _ => return Ok(None),
        }
    }
    rows.existing_inode(at).map(Some)
}

/// Path of a node in a user's trash.
pub(super) fn path<'a>(user: &'a [u8], names: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut path = Vec::new();
    for name in [HOMES, user, TRASH].into_iter().chain(names) {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let clock = TrashClock { now_ms: 0x0102, round_ms: 3 };
        let golden = [1, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(clock.encode(), golden);
        assert_eq!(TrashClock::decode(&golden).expect("decodes"), clock);
        assert_eq!(encode_born(0x0102), golden[..9]);
        assert_eq!(decode_born(b"k", &golden[..9]).expect("decodes"), 0x0102);
        for end in 0..golden.len() {
            assert!(TrashClock::decode(&golden[..end]).is_err());
            assert!(end == 9 || decode_born(b"k", &golden[..end]).is_err());
        }
        assert!(TrashClock::decode(&[2; 17]).is_err() && decode_born(b"k", &[2; 9]).is_err());
    }

    #[test]
    fn checkpoints_are_named_after_the_time_in_utc() {
        for (seconds, name) in [
            (0, "700101000000"),
            (951_782_400, "000229000000"),
            (1_735_689_599, "241231235959"),
            (1_763_746_200, "251121173000"),
            (-1, "691231235959"),
        ] {
            assert_eq!(checkpoint_name(seconds * 1_000_000_000), name);
        }
    }

    #[test]
    fn names_of_checkpoints_are_known() {
        for yes in ["251121173000", "2511211730", "251121173000-1", "251121173000-12"] {
            assert!(is_checkpoint(yes.as_bytes()), "{yes}");
        }
        for no in ["Current", "", "25112117300", "251121173000-", "251121173000-x", "25112117300x", "-1"] {
            assert!(!is_checkpoint(no.as_bytes()), "{no}");
        }
    }
}
