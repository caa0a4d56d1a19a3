//! Frames as bytes: golden ones, cut ones, lying ones, any.

use proptest::prelude::*;

use super::*;

const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

fn call() -> Vec<u8> {
    let mut out = Vec::new();
    encode_call(&mut out, 0x0102, "/a.B/C", [&MESSAGE[..5], &MESSAGE[5..]]).expect("fits");
    out
}

const CHANGED: LogPosition = LogPosition { term: 2, node_id: 3, index: 0x0405 };

fn relaxed() -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(&mut out, 3, Some(CHANGED), [MESSAGE]).expect("fits");
    out
}

fn refusal() -> Vec<u8> {
    let mut out = Vec::new();
    encode_refusal(&mut out, 3, 5, "no", b"\x08\x01").expect("fits");
    out
}

#[test]
fn golden_bytes() {
    assert_eq!(preface(), *b"dfs\x02\r\n\r\n");
    assert_eq!(call(), b"\0\0\0\x16\0\0\0\0\0\0\x01\x02\x06/a.B/C\0\0\0\0\x02hi");
    let mut out = Vec::new();
    encode_abandon(&mut out, 0x0102);
    assert_eq!(out, b"\0\0\0\x08\0\0\0\0\0\0\x01\x02");
    out.clear();
    encode_message(&mut out, 3, None, [MESSAGE]).expect("fits");
    assert_eq!(out, b"\0\0\0\x10\0\0\0\0\0\0\0\x03\0\0\0\0\0\x02hi");
    assert_eq!(
        relaxed(),
        b"\0\0\0\x28\0\0\0\0\0\0\0\x03\xff\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\x04\x05\0\0\0\0\x02hi"
    );
    assert_eq!(refusal(), b"\0\0\0\x0f\0\0\0\0\0\0\0\x03\x05\0\x02no\x08\x01");
}

#[test]
fn what_is_encoded_decodes() {
    let frame = split_frame(&call()).expect("valid").expect("whole").to_vec();
    let expected = Request::Call { id: 0x0102, path: "/a.B/C", message: MESSAGE };
    assert_eq!(decode_request(&frame), Ok(expected));
    assert_eq!(decode_request(&frame[..8]), Ok(Request::Abandon { id: 0x0102 }));
    let mut out = Vec::new();
    encode_message(&mut out, 9, None, [MESSAGE]).expect("fits");
    let answer = |changed| Answer::Message { message: MESSAGE, changed };
    assert_eq!(decode_answer(&out[4..]), Ok((9, answer(None))));
    assert_eq!(decode_answer(&relaxed()[4..]), Ok((3, answer(Some(CHANGED)))));
    let refused = Answer::Refused { code: 5, text: "no", details: b"\x08\x01" };
    assert_eq!(decode_answer(&refusal()[4..]), Ok((3, refused)));
}

#[test]
fn every_cut_frame_waits_for_the_rest_or_is_refused() {
    for whole in [call(), refusal(), relaxed()] {
        for cut in 0..whole.len() {
            let missing = split_frame(&whole[..cut]).expect("valid so far").expect_err("not whole");
            assert_eq!(missing, if cut < 4 { 4 - cut } else { whole.len() - cut });
        }
    }
    let (call, refusal) = (&call()[4..], &refusal()[4..]);
    for cut in (0..call.len()).filter(|cut| *cut != 8) {
        assert!(decode_request(&call[..cut]).is_err(), "{cut}");
    }
    for cut in 0..refusal.len() - 2 {
        assert!(decode_answer(&refusal[..cut]).is_err(), "{cut}");
    }
    let relaxed = &relaxed()[4..];
    for cut in 0..relaxed.len() {
        assert!(decode_answer(&relaxed[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn lengths_are_bounded() {
    for length in [0, 7, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let refused = split_frame(&length.to_be_bytes()).expect_err("out of range");
        assert_eq!(refused, FrameError::Length { field: "frame", length: length as usize });
    }
    let mut out = b"before".to_vec();
    let large = vec![0; FRAME_BYTES_MAX];
    let head = |length: usize| [0].into_iter().chain((length as u32).to_be_bytes()).collect::<Vec<u8>>();
    assert!(encode_call(&mut out, 1, "/a", [&head(large.len())[..], &large]).is_err());
    assert!(encode_call(&mut out, 1, "", [MESSAGE]).is_err());
    assert!(encode_call(&mut out, 1, &"a".repeat(256), [MESSAGE]).is_err());
    assert!(encode_message(&mut out, 1, None, [&MESSAGE[..6]]).is_err(), "shorter than its head says");
    assert!(encode_refusal(&mut out, 1, 2, "", &large).is_err());
    assert!(encode_refusal(&mut out, 1, 0, "fine", &[]).is_err());
    assert!(encode_refusal(&mut out, 1, 255, "fine", &[]).is_err());
    assert_eq!(out, b"before");
    encode_message(&mut out, 1, Some(CHANGED), [&head(MAX_RPC_BYTES)[..], &large[..MAX_RPC_BYTES]])
        .expect("the largest");
    out.clear();
    encode_refusal(&mut out, 1, 2, &"é".repeat(TEXT_BYTES_MAX), &large[..MAX_RPC_BYTES]).expect("is cut");
    let frame = split_frame(&out).expect("valid").expect("whole");
    let (_, Answer::Refused { text, .. }) = decode_answer(frame).expect("valid") else { panic!() };
    assert_eq!(text.len(), TEXT_BYTES_MAX);
}

#[test]
fn prefaces_are_told_apart() {
    assert_eq!(check_preface(preface()), Ok(()));
    assert_eq!(check_preface(*b"dfs\x01\r\n\r\n"), Err(FrameError::Version { theirs: 1 }));
    for other in [b"PRI * HT", b"GET / HT", b"HTTP/1.1", b"dfs\x02\r\n\r\0", b"\0\0\0\0\0\0\0\0"] {
        assert_eq!(check_preface(*other), Err(FrameError::Preface));
        assert!(!may_be_preface(other));
    }
    assert!(may_be_preface(b"") && may_be_preface(b"dfs\x07") && !may_be_preface(b"df5"));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_understood(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = split_frame(&raw);
        if let Ok(Request::Call { id, path, message }) = decode_request(&raw) {
            let mut again = Vec::new();
            encode_call(&mut again, id, path, [message]).expect("fits");
            prop_assert_eq!(&again[4..], &raw[..]);
        }
        if let Ok((id, Answer::Refused { code, text, details })) = decode_answer(&raw) {
            let mut again = Vec::new();
            encode_refusal(&mut again, id, code, text, details).expect("fits");
            prop_assert_eq!(&again[4..], &raw[..]);
        }
    }

    #[test]
    fn calls_survive(id: u64, path in "[!-~]{1,255}", content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let message = [&[0][..], &(content.len() as u32).to_be_bytes(), &content].concat();
        let mut out = Vec::new();
        encode_call(&mut out, id, &path, [message.as_slice()]).expect("fits");
        let frame = split_frame(&out).expect("valid").expect("whole");
        prop_assert_eq!(decode_request(frame), Ok(Request::Call { id, path: &path, message: &message }));
    }
}
