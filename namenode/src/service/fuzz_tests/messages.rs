//! Well-formed messages with arbitrary fields: made by their descriptors, of values that answers told and of odd ones.

use std::collections::HashMap;

use bytes::Bytes;
use protox::prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

/// Values kept of each field.
const KEPT_MAX: usize = 48;

/// Depth to which messages in messages are made.
const DEPTH_MAX: usize = 5;

/// Numbers at which things end.
const EDGES: [u64; 14] =
    [0, 1, 2, 3, 7, 4095, 4096, 65_536, (1 << 31) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, u64::MAX];

const NAMES: [&str; 16] =
    ["", "a", "b", "c", "d", "a/b", "/a", "/a/b/c", "f", "g", "..", ".", "/", "a//b", "a\0b", "/.Trash"];

const USERS: [&str; 4] = ["root", "root", "ann", "nobody"];

/// Numbers from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Makes messages, and learns from answers.
pub struct Maker {
    pub random: Random,
    numbers: HashMap<String, Vec<u64>>,
    texts: HashMap<String, Vec<Bytes>>,
    calls: u64,
}

fn keep<T: PartialEq>(kept: &mut Vec<T>, value: T, random: &mut Random) {
    if kept.contains(&value) {
    } else if kept.len() < KEPT_MAX {
        kept.push(value);
    } else {
        let at = random.below(KEPT_MAX);
        kept[at] = value;
    }
}

/// Under which name a field's values are kept: what is one thing has many names.
fn subject(field: &FieldDescriptor) -> String {
    let parent = field.parent_message().name().to_owned();
    let name = match (parent.as_str(), field.name()) {
        ("Block", "id") | (_, "block_ids" | "block_id") => "block",
        (_, "generation_stamp" | "generation_stamps" | "new_generation_stamp") => "stamp",
        (_, "inode" | "inodes" | "base" | "open_inodes" | "recalled" | "recalled_directories" | "parent") => {
            "inode"
        }
        (_, "session" | "holder") => "session",
        (_, "storage_id" | "storage_ids" | "existing") => "storage",
        (_, "uuid" | "datanode_uuid" | "exclude") => "uuid",
        (_, "lengths" | "length" | "size" | "new_length") => "length",
        (_, other) => other,
    };
    name.to_owned()
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        let mut texts = HashMap::new();
        let sessions = ["mount-a", "mount-b", "writer"].map(|name| Bytes::from_static(name.as_bytes()));
        texts.insert("session".to_owned(), sessions.to_vec());
        Self { random: Random(seed), numbers: HashMap::new(), texts, calls: 0 }
    }

    /// Remembers what a message says.
    pub fn learn(&mut self, message: &DynamicMessage) {
        for (field, value) in message.fields() {
            self.learn_value(&field, value);
        }
    }

    fn learn_value(&mut self, field: &FieldDescriptor, value: &Value) {
        let number = match value {
            Value::Message(message) => return self.learn(message),
            Value::List(values) => return values.iter().for_each(|value| self.learn_value(field, value)),
            Value::String(text) => return self.learn_text(field, Bytes::from(text.clone())),
            Value::Bytes(bytes) => return self.learn_text(field, bytes.clone()),
            Value::U64(number) => *number,
            Value::U32(number) => u64::from(*number),
            _ => return,
        };
        keep(self.numbers.entry(subject(field)).or_default(), number, &mut self.random);
    }

    fn learn_text(&mut self, field: &FieldDescriptor, text: Bytes) {
        keep(self.texts.entry(subject(field)).or_default(), text, &mut self.random);
    }

    /// A message of this kind.
    pub fn message(&mut self, kind: &MessageDescriptor) -> DynamicMessage {
        self.nested(kind, 0)
    }

    fn nested(&mut self, kind: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(kind.clone());
        if kind.name() == "CallContext" {
            self.fill_context(&mut message);
            return message;
        }
        for field in kind.fields() {
            let left_out = if field.name() == "context" { 2 } else { 15 };
            if self.random.percent(left_out) {
                continue;
            }
            let value = if field.is_list() {
                let count = match self.random.below(20) {
                    0 if depth == 0 => 2_000,
                    1..4 => self.random.below(20),
                    _ => self.random.below(4),
                };
                let values = (0..count).filter_map(|_| self.value(&field, depth)).collect();
                Some(Value::List(values))
            } else {
                self.value(&field, depth)
            };
            if let Some(value) = value {
                message.set_field(&field, value);
            }
        }
        message
    }

    /// Who calls: mostly one who may, with a call of his own.
    fn fill_context(&mut self, message: &mut DynamicMessage) {
        let user = USERS[self.random.below(USERS.len())].to_owned();
        self.calls += 1;
        let call_id = if self.random.percent(95) { self.calls } else { self.random.next() % 50 };
        let client = match self.random.below(30) {
            0 => vec![1; self.random.below(40)],
            other => vec![(other % 3) as u8 + 1; 16],
        };
        message.set_field_by_name("user", Value::String(user));
        message.set_field_by_name("client_id", Value::Bytes(client.into()));
        message.set_field_by_name("call_id", Value::U64(call_id));
        let relaxed = self.random.percent(80);
        message.set_field_by_name("relaxed", Value::Bool(relaxed));
    }

    fn value(&mut self, field: &FieldDescriptor, depth: usize) -> Option<Value> {
        Some(match field.kind() {
            Kind::Message(_) if depth >= DEPTH_MAX => return None,
            Kind::Message(kind) => Value::Message(self.nested(&kind, depth + 1)),
            Kind::Bool => Value::Bool(self.random.percent(40)),
            Kind::Enum(kind) => {
                let values: Vec<i32> = kind.values().map(|value| value.number()).collect();
                let odd = self.random.percent(3);
                let number =
                    if odd { self.random.next() as i32 } else { values[self.random.below(values.len())] };
                Value::EnumNumber(number)
            }
            Kind::Double => Value::F64(self.number(field) as f64),
            Kind::Float => Value::F32(self.number(field) as f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number(field) as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number(field) as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number(field) as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number(field)),
            Kind::String => Value::String(String::from_utf8_lossy(&self.text(field)).into_owned()),
            Kind::Bytes => Value::Bytes(self.text(field)),
        })
    }

    fn number(&mut self, field: &FieldDescriptor) -> u64 {
        if field.name() == "wait_ms" {
            return self.random.next() % 3;
        }
        if field.name() == "protocol_version" && self.random.percent(90) {
            return self.numbers.get("protocol_version").map_or(1, |known| known[0]);
        }
        let known = self.numbers.get(&subject(field)).map(Vec::as_slice).unwrap_or_default();
        match self.random.below(20) {
            0..13 if !known.is_empty() => known[self.random.below(known.len())],
            13 | 14 if !known.is_empty() => {
                known[self.random.below(known.len())].wrapping_add(self.random.next() % 3)
            }
            15 => self.random.next(),
            16 | 17 => EDGES[self.random.below(EDGES.len())],
            _ => self.random.next() % 5,
        }
    }

    fn text(&mut self, field: &FieldDescriptor) -> Bytes {
        let known = self.texts.get(&subject(field)).map(Vec::as_slice).unwrap_or_default();
        match self.random.below(20) {
            0..12 if !known.is_empty() => known[self.random.below(known.len())].clone(),
            12 => {
                let len = self.random.below(300);
                (0..len).map(|_| self.random.next() as u8).collect()
            }
            13 => Bytes::from(vec![b'x'; 1 + self.random.below(5_000)]),
            _ => Bytes::from_static(NAMES[self.random.below(NAMES.len())].as_bytes()),
        }
    }
}

/// The message as bytes.
pub fn encoded(message: &DynamicMessage) -> Vec<u8> {
    use prost::Message;
    debug_assert!(!message.descriptor().is_map_entry());
    message.encode_to_vec()
}

/// The answer, if it is one.
pub fn decoded(kind: MessageDescriptor, raw: &[u8]) -> Option<DynamicMessage> {
    DynamicMessage::decode(kind, raw).ok()
}
