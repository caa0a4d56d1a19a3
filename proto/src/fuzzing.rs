//! Fuzzing of decoders: bytes made from valid encodings by random changes, and random bytes.
//!
//! Shared by the unit tests of the crates, since most decoders are private; each includes this file. A decoder must neither panic nor
//! ask for more memory than its input justifies, which a counting allocator watches. In the ordinary test suite each
//! decoder gets some thousand inputs; `DFS_FUZZ_SECONDS=n` gives each so many seconds, and `DFS_FUZZ_SEED=n` replays.
//!
//! What a decoder accepts joins the inputs that are changed further, so that deeper parts are reached.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Inputs for each decoder in the ordinary test suite.
const CASES: u64 = 4_000;

/// Inputs for each kind of message: there are a hundred kinds, all read by the same generated code.
const CASES_OF_MESSAGE: u64 = 500;

/// Inputs between two looks at the clock.
const CASES_PER_LOOK: u64 = 256;

/// Accepted inputs that are kept to be changed further.
const KEPT_MAX: usize = 64;

/// Longest input: a few times the longest valid one, and short enough to be quick.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Bytes that a decoder may ask for whatever its input is.
const ALLOCATION_BASE: usize = 16 << 10;

/// Bytes that a decoder may ask for in addition, for each byte of input: messages become structs, and vectors double.
const ALLOCATION_PER_BYTE: usize = 256;

thread_local! {
    /// Bytes that this thread has asked for.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn count(bytes: usize) {
        // A thread that ends allocates after its counter is gone.
        let _ = ASKED.try_with(|asked| asked.set(asked.get().saturating_add(bytes)));
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller keeps the allocator's rules, which are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Numbers from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Says which input was at work when a test panics.
struct Witness<'a> {
    name: &'a str,
    seed: u64,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let input: String = self.input.iter().take(4096).map(|byte| format!("{byte:02x}")).collect();
            eprintln!("fuzzing {}: DFS_FUZZ_SEED={} with {input}", self.name, self.seed);
        }
    }
}

/// Fuzzes `decode`, which says whether it accepted its input, with changes of the `valid` inputs.
///
/// # Panics
/// If the decoder panics or asks for too much memory, or if it does not accept what is valid.
pub(crate) fn fuzz(name: &str, valid: &[Vec<u8>], decode: impl Fn(&[u8]) -> bool) {
    fuzz_repaired(name, valid, |_| {}, decode);
}

/// Like [`fuzz`], for a decoder that need not accept all of `seeds`.
///
/// # Panics
/// If the decoder panics or asks for too much memory.
#[allow(dead_code, reason = "not every crate has such decoders")]
pub(crate) fn fuzz_from(name: &str, seeds: &[Vec<u8>], decode: impl Fn(&[u8]) -> bool) {
    run(name, seeds, CASES, |_| {}, decode);
}

/// Like [`fuzz_from`], for one of many kinds of messages.
///
/// # Panics
/// If the decoder panics or asks for too much memory.
#[allow(dead_code, reason = "not every crate has such decoders")]
pub(crate) fn fuzz_message(name: &str, seeds: &[Vec<u8>], decode: impl Fn(&[u8]) -> bool) {
    run(name, seeds, CASES_OF_MESSAGE, |_| {}, decode);
}

/// Runs `work`, whose memory is not its input's fault.
#[allow(dead_code, reason = "not every crate has such decoders")]
pub(crate) fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = ASKED.get();
    let result = work();
    ASKED.set(before);
    result
}

/// Like [`fuzz`]; `repair` makes checksums right again in half of the changed inputs, so that what lies behind them is reached.
pub(crate) fn fuzz_repaired(
    name: &str,
    valid: &[Vec<u8>],
    repair: impl Fn(&mut Vec<u8>),
    decode: impl Fn(&[u8]) -> bool,
) {
    for input in valid {
        assert!(decode(input), "{name} does not accept {input:?}");
    }
    run(name, valid, CASES, repair, decode);
}

fn run(
    name: &str,
    valid: &[Vec<u8>],
    at_least: u64,
    repair: impl Fn(&mut Vec<u8>),
    decode: impl Fn(&[u8]) -> bool,
) {
    let number = |variable| std::env::var(variable).ok().and_then(|text: String| text.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("DFS_FUZZ_SEED").unwrap_or(now.as_nanos() as u64);
    let end = number("DFS_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut numbers = Numbers(seed);
    let mut kept = valid.to_vec();
    let (mut cases, mut accepted) = (0u64, 0u64);
    loop {
        let mut input = match numbers.below(16) {
            0 => {
                let len = numbers.below(300);
                numbers.bytes(len)
            }
            _ => changed(&mut numbers, &kept),
        };
        if numbers.below(2) == 0 {
            repair(&mut input);
        }
        let witness = Witness { name, seed, input: &input };
        let before = ASKED.get();
        let good = decode(&input);
        let asked = ASKED.get().saturating_sub(before);
        let allowed = ALLOCATION_BASE + ALLOCATION_PER_BYTE * input.len();
        assert!(asked <= allowed, "{name} asks for {asked} bytes for an input of {}", input.len());
        drop(witness);
        cases += 1;
        if good {
            accepted += 1;
            if kept.len() < valid.len() + KEPT_MAX {
                kept.push(input);
            } else if kept.len() > valid.len() {
                let at = valid.len() + numbers.below(KEPT_MAX);
                kept[at] = input;
            }
        }
        let over = match end {
            Some(end) => cases.is_multiple_of(CASES_PER_LOOK) && Instant::now() >= end,
            None => cases >= at_least,
        };
        if over {
            break;
        }
    }
    println!("{name}: {cases} inputs, {accepted} accepted, seed {seed}");
}

/// One of `from`, changed in one to six places.
fn changed(numbers: &mut Numbers, from: &[Vec<u8>]) -> Vec<u8> {
    let mut input = from.get(numbers.below(from.len())).cloned().unwrap_or_default();
    for _ in 0..=numbers.below(6) {
        change(numbers, &mut input, from);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn change(numbers: &mut Numbers, input: &mut Vec<u8>, from: &[Vec<u8>]) {
    /// Numbers at which lengths and counts go wrong.
    const EDGES: [u64; 12] = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        u64::MAX,
    ];
    if input.len() > INPUT_BYTES_MAX {
        return;
    }
    let at = numbers.below(input.len() + 1);
    let rest = input.len() - at;
    let edge = EDGES[numbers.below(EDGES.len())].wrapping_sub(numbers.below(2) as u64);
    match numbers.below(10) {
        0 if rest > 0 => input[at] ^= 1 << numbers.below(8),
        1 if rest > 0 => input[at] = numbers.next() as u8,
        2 => input.truncate(at),
        3 => {
            let len = 1 + numbers.below(16);
            let bytes = numbers.bytes(len);
            input.splice(at..at, bytes);
        }
        4 => {
            let len = numbers.below(rest.min(64) + 1);
            input.drain(at..at + len);
        }
        5 => {
            let piece = input[at..at + numbers.below(rest.min(256) + 1)].to_vec();
            let to = numbers.below(input.len() + 1);
            input.splice(to..to, piece);
        }
        6 if !from.is_empty() => {
            let other = &from[numbers.below(from.len())];
            let begin = numbers.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[begin..]);
        }
        7 | 8 => {
            let width = [1, 2, 4, 8][numbers.below(4)].min(rest);
            let (big, little) = (edge.to_be_bytes(), edge.to_le_bytes());
            let bytes = if numbers.below(2) == 0 { &big[8 - width..] } else { &little[..width] };
            input[at..at + width].copy_from_slice(bytes);
        }
        _ => {
            // A number as protobuf writes it.
            let mut left = edge;
            let mut bytes = Vec::new();
            while left >= 0x80 {
                bytes.push(left as u8 | 0x80);
                left >>= 7;
            }
            bytes.push(left as u8);
            let replaced = numbers.below(rest.min(3) + 1);
            input.splice(at..at + replaced, bytes);
        }
    }
}
