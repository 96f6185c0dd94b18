//! Builds one message of a type near a wanted size: first every field once, then fewer fields or longer
//! lists, at last words for what is left. Values are those of `words`.

use prost::Message;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

use super::words;
use crate::random::Random;

/// Types that contain themselves end here; real messages are rarely nested deeper.
const DEEPEST: u32 = 4;
/// Elements of one list at most: a larger message grows by its texts.
const LONGEST_LIST: usize = 2_000;

/// An encoded message whose size comes as near to `bytes` as the type allows.
pub(super) fn build(of: &MessageDescriptor, bytes: u32, random: &mut Random) -> Vec<u8> {
    let wanted = bytes as usize;
    let mut message = full(of, 0, random);
    shrink(&mut message, wanted);
    grow(&mut message, wanted, random);
    pad(&mut message, wanted, random);
    message.encode_to_vec()
}

/// A message with every field set, and one element in every list.
fn full(of: &MessageDescriptor, depth: u32, random: &mut Random) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        // Of a oneof, the first field that is written stays.
        let taken =
            field.containing_oneof().is_some_and(|one| one.fields().any(|other| message.has_field(&other)));
        if !taken && let Some(value) = value(&field, depth, random) {
            message.set_field(&field, value);
        }
    }
    message
}

/// A value of a field, with one element if it holds several; none where nesting ends.
fn value(field: &FieldDescriptor, depth: u32, random: &mut Random) -> Option<Value> {
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let key = map_key(&words::value("key", "", &key.kind(), random))?;
        return Some(Value::Map([(key, element(&value, depth, random)?)].into()));
    }
    let one = element(field, depth, random)?;
    Some(if field.is_list() { Value::List(vec![one]) } else { one })
}

fn element(field: &FieldDescriptor, depth: u32, random: &mut Random) -> Option<Value> {
    match field.kind() {
        Kind::Message(_) if depth >= DEEPEST && field.cardinality() != Cardinality::Required => None,
        Kind::Message(of) => Some(Value::Message(full(&of, depth + 1, random))),
        kind => Some(words::value(field.name(), field.parent_message().name(), &kind, random)),
    }
}

fn map_key(value: &Value) -> Option<MapKey> {
    Some(match value {
        Value::String(key) => MapKey::String(key.clone()),
        Value::I32(key) => MapKey::I32(*key),
        Value::I64(key) => MapKey::I64(*key),
        Value::U32(key) => MapKey::U32(*key),
        Value::U64(key) => MapKey::U64(*key),
        Value::Bool(key) => MapKey::Bool(*key),
        _ => return None,
    })
}

/// Takes fields away, those that hold several first and then from the last, until the size is not passed.
fn shrink(message: &mut DynamicMessage, wanted: usize) {
    let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    let (several, one): (Vec<_>, Vec<_>) = fields.iter().partition(|field| field.is_list() || field.is_map());
    for field in several.into_iter().rev().chain(one.into_iter().rev()) {
        let over = message.encoded_len().saturating_sub(wanted);
        if over == 0 {
            return;
        }
        if !message.has_field(field) {
            continue;
        }
        if let Value::Message(inner) = message.get_field_mut(field) {
            let inner_wanted = inner.encoded_len().saturating_sub(over);
            if inner_wanted > 0 {
                shrink(inner, inner_wanted);
                continue;
            }
        }
        if field.cardinality() != Cardinality::Required {
            message.clear_field(field);
        }
    }
}

/// Appends to lists by turns, those of the message itself or else of the messages in it, while there is room.
fn grow(message: &mut DynamicMessage, wanted: usize, random: &mut Random) {
    let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    let lists: Vec<&FieldDescriptor> = fields.iter().filter(|field| field.is_list()).collect();
    let mut at = 0;
    let mut full_lists = 0;
    while full_lists < lists.len() {
        let Some(list) = lists.get(at % lists.len()) else { return };
        at += 1;
        let before = message.encoded_len();
        let appended = append(message, list, random);
        if appended && message.encoded_len() <= wanted && message.encoded_len() > before {
            full_lists = 0;
            continue;
        }
        if appended {
            remove_last(message, list);
        }
        full_lists += 1;
    }
    for field in fields.iter().filter(|field| !field.is_list() && !field.is_map()) {
        let room = wanted.saturating_sub(message.encoded_len());
        if room == 0 || !lists.is_empty() || !message.has_field(field) {
            continue;
        }
        if let Value::Message(inner) = message.get_field_mut(field) {
            grow(inner, inner.encoded_len() + room, random);
        }
    }
}

fn append(message: &mut DynamicMessage, list: &FieldDescriptor, random: &mut Random) -> bool {
    let Some(new) = element(list, 0, random) else { return false };
    match message.get_field_mut(list) {
        Value::List(elements) if elements.len() < LONGEST_LIST => {
            elements.push(new);
            true
        }
        _ => false,
    }
}

fn remove_last(message: &mut DynamicMessage, list: &FieldDescriptor) {
    if let Value::List(elements) = message.get_field_mut(list) {
        elements.pop();
    }
}

/// Fills what is left with words or bytes in the field that may best be long. Lengths are written in front of
/// texts, so that one more try may be needed for each level.
fn pad(message: &mut DynamicMessage, wanted: usize, random: &mut Random) {
    for _ in 0..DEEPEST {
        let missing = wanted.saturating_sub(message.encoded_len());
        // A name with words behind it would look like none: a little less is near enough.
        let natural = long_field(message).is_none_or(|field| is_name(&field));
        if missing == 0 || (natural && missing <= wanted / 10) || !lengthen(message, missing, random, 0) {
            break;
        }
        let over = message.encoded_len().saturating_sub(wanted);
        if over > 0 && !shorten(message, over) {
            break;
        }
    }
}

/// The field that may best be long: prose, bytes, then any text; of this message, else of one in it.
fn long_field(message: &DynamicMessage) -> Option<FieldDescriptor> {
    let rank = |field: &FieldDescriptor| match field.kind() {
        Kind::String if words::is_prose(field.name()) => Some(0),
        Kind::Bytes => Some(1),
        Kind::String => Some(2),
        _ => None,
    };
    let free = |field: &FieldDescriptor| {
        !field.is_list()
            && !field.is_map()
            && field.containing_oneof().is_none_or(|one| {
                message.has_field(field) || one.fields().all(|other| !message.has_field(&other))
            })
    };
    message.descriptor().fields().filter(free).filter(|field| rank(field).is_some()).min_by_key(rank)
}

fn is_name(field: &FieldDescriptor) -> bool {
    field.kind() == Kind::String && !words::is_prose(field.name())
}

fn lengthen(message: &mut DynamicMessage, bytes: usize, random: &mut Random, depth: u32) -> bool {
    if let Some(field) = long_field(message) {
        return match message.get_field_mut(&field) {
            Value::String(text) => {
                if !text.is_empty() && bytes > 1 {
                    text.push(' ');
                }
                text.push_str(&words::prose(bytes.saturating_sub(1).max(1), random));
                true
            }
            Value::Bytes(blob) => {
                *blob = vec![b'x'; blob.len() + bytes].into();
                true
            }
            _ => false,
        };
    }
    let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    fields.iter().filter(|_| depth < DEEPEST).any(|field| {
        if !message.has_field(field) {
            return false;
        }
        match message.get_field_mut(field) {
            Value::Message(inner) => lengthen(inner, bytes, random, depth + 1),
            Value::List(elements) => elements.iter_mut().rev().any(|element| match element {
                Value::Message(inner) => lengthen(inner, bytes, random, depth + 1),
                Value::String(text) => {
                    text.push_str(&words::prose(bytes, random));
                    true
                }
                _ => false,
            }),
            _ => false,
        }
    })
}

/// Takes so many bytes from the field that was lengthened, when it is this message's own.
fn shorten(message: &mut DynamicMessage, bytes: usize) -> bool {
    let Some(field) = long_field(message) else { return false };
    match message.get_field_mut(&field) {
        Value::String(text) if text.len() > bytes && text.is_char_boundary(text.len() - bytes) => {
            text.truncate(text.len() - bytes);
            true
        }
        Value::Bytes(blob) if blob.len() > bytes => {
            blob.truncate(blob.len() - bytes);
            true
        }
        _ => false,
    }
}
