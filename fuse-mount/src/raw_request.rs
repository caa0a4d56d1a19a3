//! Fields of kernel requests that fuser 0.18 parses but does not hand on.
//!
//! fuser reads a request into one buffer and gives the file system a reference to its header, `fuse_in_header`, in place. The
//! arguments lie behind the header in the same buffer. Layouts are those of the kernel's `include/uapi/linux/fuse.h`:
//!
//! | request  | offset behind the header | size | field                                                |
//! |----------|--------------------------|------|------------------------------------------------------|
//! | (header) | -40                      | 4    | length of the whole request                          |
//! | (header) | -36                      | 4    | opcode                                               |
//! | SETLK, SETLKW, GETLK | 40           | 4    | `lk_flags`; 1 is FUSE_LK_FLOCK                       |
//! | SETATTR  | 0                        | 4    | `valid`; 2048 is FATTR_KILL_SUIDGID                  |
//! | OPEN     | 4                        | 4    | `open_flags`; 1 is FUSE_OPEN_KILL_SUIDGID            |
//! | READDIR, READDIRPLUS | 16           | 4    | `size`                                               |

use fuser::Request;

/// Bytes of `fuse_in_header`.
const HEADER_BYTES: usize = 40;
const _: () = assert!(size_of::<Request>() == HEADER_BYTES, "fuser's request is the kernel's header");

const OPCODE_SETATTR: u32 = 4;
const OPCODE_OPEN: u32 = 14;
const OPCODE_READDIR: u32 = 28;
const OPCODE_READDIRPLUS: u32 = 44;
const OPCODE_GETLK: u32 = 31;
const OPCODE_SETLKW: u32 = 33;

const LK_FLAGS_OFFSET: usize = 40;
const LK_FLOCK: u32 = 1;
const SETATTR_VALID_OFFSET: usize = 0;
const FATTR_KILL_SUIDGID: u32 = 1 << 11;
const OPEN_FLAGS_OFFSET: usize = 4;
const OPEN_KILL_SUIDGID: u32 = 1;
const READDIR_SIZE_OFFSET: usize = 16;
/// The kernel never gives a listing less.
const READDIR_LEAST_BYTES: usize = 4_096;

/// Whether a lock request is of flock(2), not fcntl(2).
pub fn is_flock(request: &Request) -> bool {
    argument(request, OPCODE_GETLK..=OPCODE_SETLKW, LK_FLAGS_OFFSET)
        .is_some_and(|flags| flags & LK_FLOCK != 0)
}

/// Whether a change of size is to clear set-user-id and set-group-id.
pub fn setattr_kills_privileges(request: &Request) -> bool {
    argument(request, OPCODE_SETATTR..=OPCODE_SETATTR, SETATTR_VALID_OFFSET)
        .is_some_and(|valid| valid & FATTR_KILL_SUIDGID != 0)
}

/// Whether an open that truncates is to clear set-user-id and set-group-id.
pub fn open_kills_privileges(request: &Request) -> bool {
    argument(request, OPCODE_OPEN..=OPCODE_OPEN, OPEN_FLAGS_OFFSET)
        .is_some_and(|flags| flags & OPEN_KILL_SUIDGID != 0)
}

/// Bytes that the answer to a listing may have.
pub fn listing_bytes(request: &Request) -> usize {
    let size = [OPCODE_READDIR, OPCODE_READDIRPLUS]
        .into_iter()
        .find_map(|opcode| argument(request, opcode..=opcode, READDIR_SIZE_OFFSET));
    size.map_or(READDIR_LEAST_BYTES, |size| size as usize)
}

/// The 32-bit argument `offset` bytes behind the header of a request with one of these opcodes.
fn argument(request: &Request, opcodes: std::ops::RangeInclusive<u32>, offset: usize) -> Option<u32> {
    let header = std::ptr::from_ref(request).cast::<u8>();
    // SAFETY: a request begins with the header's 40 bytes, of which length and opcode are the first 8; fuser keeps the header
    // aligned to 8.
    let (length, opcode) = unsafe { (header.cast::<u32>().read(), header.cast::<u32>().add(1).read()) };
    let end = HEADER_BYTES + offset + size_of::<u32>();
    if !opcodes.contains(&opcode) || (length as usize) < end {
        return None;
    }
    // SAFETY: fuser has checked that the buffer holds `length` bytes from the header on, before it called the file system;
    // the buffer is neither written to nor freed until that call returns, which outlives `request`.
    Some(unsafe { header.add(HEADER_BYTES + offset).cast::<u32>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as it lies in fuser's buffer.
    #[repr(align(8))]
    struct Buffer([u8; 88]);

    fn buffer(length: u32, opcode: u32, offset: usize, value: u32) -> Buffer {
        let mut bytes = [0; 88];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        Buffer(bytes)
    }

    fn request(buffer: &Buffer) -> &Request {
        // SAFETY: `Request` is transparent over the kernel's header, of which every bit pattern is valid; the buffer is
        // aligned and longer.
        unsafe { &*buffer.0.as_ptr().cast::<Request>() }
    }

    #[test]
    fn the_kernels_layout() {
        // header 40, fh 8, owner 8, lock {start 8, end 8, type 4, pid 4}, lk_flags
        let flock = buffer(88, 32, 40 + 8 + 8 + 24, 1);
        assert!(is_flock(request(&flock)));
        assert!(!is_flock(request(&buffer(88, 32, 80, 0))));
        // header 40, valid
        assert!(setattr_kills_privileges(request(&buffer(88, 4, 40, 1 << 11))));
        // header 40, flags 4, open_flags
        assert!(open_kills_privileges(request(&buffer(48, 14, 44, 1))));
        // header 40, fh 8, offset 8, size
        for opcode in [28, 44] {
            assert_eq!(listing_bytes(request(&buffer(80, opcode, 56, 65_536))), 65_536);
        }
    }

    #[test]
    fn other_or_short_requests_have_no_such_fields() {
        assert!(!is_flock(request(&buffer(84, 3, 80, 1))));
        assert!(!is_flock(request(&buffer(83, 32, 80, 1))));
        assert!(!open_kills_privileges(request(&buffer(47, 14, 44, 1))));
        assert!(!setattr_kills_privileges(request(&buffer(88, 14, 40, 1 << 11))));
        assert_eq!(listing_bytes(request(&buffer(80, 15, 56, 65_536))), READDIR_LEAST_BYTES);
        assert_eq!(listing_bytes(request(&buffer(59, 28, 56, 65_536))), READDIR_LEAST_BYTES);
    }
}
