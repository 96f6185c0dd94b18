//! What stands in messages: a field's name and type come in, a value that such a field might have goes out.
//! Names are matched by their parts, so that `user_id`, `street_address` and `card_number` look like it.

use prost_reflect::{Kind, Value};

use crate::random::Random;

const FIRST: [&str; 12] = [
    "Amara", "Björn", "Chidi", "Dolores", "Emre", "Freja", "Hana", "Iker", "Jelena", "Kwame", "Lucía",
    "Oluchi",
];
const LAST: [&str; 10] = [
    "Abelsen", "Castro", "Dlamini", "Fischer", "Ivanova", "Kowalski", "Nakamura", "Okafor", "Rossi", "Zhang",
];
const ADJECTIVES: [&str; 10] =
    ["bamboo", "brushed", "classic", "cotton", "enamel", "folding", "linen", "slim", "vintage", "walnut"];
const THINGS: [&str; 12] = [
    "camera lens",
    "candle holder",
    "glass jar",
    "hairdryer",
    "kettle",
    "loafers",
    "mug",
    "record player",
    "salt shakers",
    "sunglasses",
    "tank top",
    "watch",
];
const STREETS: [&str; 8] = [
    "Canal Street",
    "Elm Avenue",
    "Harbour Road",
    "Hill Lane",
    "Mill Row",
    "Orchard Way",
    "Park Drive",
    "Station Road",
];
const CITIES: [(&str, &str, &str, i32); 6] = [
    ("Mountain View", "CA", "United States", 94_043),
    ("Leipzig", "SN", "Germany", 4_109),
    ("Lagos", "LA", "Nigeria", 10_001),
    ("Osaka", "27", "Japan", 53_000),
    ("Porto", "13", "Portugal", 4_000),
    ("Toronto", "ON", "Canada", 53_201),
];
const CURRENCIES: [&str; 10] = ["AUD", "BRL", "CAD", "CHF", "EUR", "GBP", "JPY", "NGN", "TRY", "USD"];
const SENTENCE: [&str; 24] = [
    "a",
    "and",
    "at",
    "comes",
    "comfortable",
    "day",
    "design",
    "every",
    "for",
    "from",
    "hand",
    "home",
    "in",
    "is",
    "keeps",
    "light",
    "made",
    "of",
    "simple",
    "the",
    "this",
    "warm",
    "with",
    "your",
];

/// A value of a scalar field; messages are not made here.
pub(super) fn value(field: &str, owner: &str, kind: &Kind, random: &mut Random) -> Value {
    match kind {
        Kind::String => Value::String(text(&field.to_lowercase(), &owner.to_lowercase(), random)),
        Kind::Bytes => Value::Bytes(vec![b'x'; 8].into()),
        Kind::Bool => Value::Bool(true),
        Kind::Double => Value::F64(f64::from(number(field, random)) / 4.0),
        #[expect(clippy::cast_precision_loss, reason = "numbers of a sample are small")]
        Kind::Float => Value::F32(number(field, random) as f32 / 4.0),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number(field, random)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number(field, random).into()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number(field, random).unsigned_abs()),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number(field, random).unsigned_abs().into()),
        Kind::Enum(choices) => {
            // Zero is what an absent field says, and would not be on the wire.
            let numbers: Vec<i32> =
                choices.values().map(|choice| choice.number()).filter(|&n| n != 0).collect();
            Value::EnumNumber(if numbers.is_empty() { 0 } else { *pick(&numbers, random) })
        }
        Kind::Message(_) => Value::Bool(true),
    }
}

/// Whether a text field may be of any length.
pub(super) fn is_prose(field: &str) -> bool {
    let field = field.to_lowercase();
    ["description", "text", "html", "body", "note", "message", "comment", "content"]
        .iter()
        .any(|part| field.contains(part))
}

/// Words of so many bytes in all.
pub(super) fn prose(bytes: usize, random: &mut Random) -> String {
    let mut text = String::with_capacity(bytes + 12);
    while text.len() < bytes {
        if !text.is_empty() {
            text.push(' ');
        }
        let word: &&str = pick(&SENTENCE, random);
        text.push_str(word);
    }
    text.truncate(bytes);
    text
}

fn text(field: &str, owner: &str, random: &mut Random) -> String {
    let has = |parts: &[&str]| parts.iter().any(|part| field.contains(part));
    let city = pick(&CITIES, random);
    if has(&["email"]) {
        format!("{}.{}@example.com", pick(&FIRST, random), pick(&LAST, random)).to_lowercase()
    } else if has(&["currency"]) {
        (*pick(&CURRENCIES, random)).into()
    } else if has(&["card"]) && has(&["number"]) {
        format!("4111-{:04}-{:04}-{:04}", random.below(10_000), random.below(10_000), random.below(10_000))
    } else if has(&["user", "session", "order", "transaction", "tracking"]) {
        let (a, b) = (random.bits(), random.bits());
        let (version, variant) = (0x4000 | (a & 0x0FFF), 0x8000 | (b >> 50));
        format!(
            "{:08x}-{:04x}-{version:04x}-{variant:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xFFFF,
            b & 0xFFFF_FFFF_FFFF
        )
    } else if has(&["street", "address"]) {
        format!("{} {}", 1 + random.below(1_900), pick(&STREETS, random))
    } else if has(&["city"]) {
        city.0.into()
    } else if has(&["state", "region"]) {
        city.1.into()
    } else if has(&["country"]) {
        city.2.into()
    } else if has(&["zip", "postal"]) {
        format!("{:05}", city.3)
    } else if has(&["picture", "image", "url", "link"]) {
        format!("/static/img/products/{}-{}.jpg", pick(&ADJECTIVES, random), random.below(90) + 10)
    } else if has(&["categor"]) {
        pick(&THINGS, random).split(' ').next_back().unwrap_or_default().into()
    } else if is_prose(field) {
        prose(24, random)
    } else if has(&["name"]) && !has(&["product", "item"]) && !["product", "item"].contains(&owner) {
        format!("{} {}", pick(&FIRST, random), pick(&LAST, random))
    } else if has(&["name", "title"]) {
        format!("{} {}", pick(&ADJECTIVES, random), pick(&THINGS, random))
    } else if has(&["id", "key", "code", "sku"]) {
        let letter = |random: &mut Random| char::from(*pick(b"0123456789ACDEGHJKLMNPQRTUVWXYZ", random));
        std::iter::repeat_with(|| letter(random)).take(10).collect()
    } else {
        prose(10, random)
    }
}

fn number(field: &str, random: &mut Random) -> i32 {
    let field = field.to_lowercase();
    let (low, span) = match field.as_str() {
        name if name.contains("quantity") => (1, 5),
        name if name.contains("units") => (5, 200),
        name if name.contains("nanos") => return 10_000_000 * (1 + below(99, random)),
        name if name.contains("year") => (2_027, 5),
        name if name.contains("month") => (1, 12),
        name if name.contains("cvv") => (100, 900),
        name if name.contains("zip") => return pick(&CITIES, random).3,
        name if name.contains("seconds") => (1_760_000_000, 10_000_000),
        _ => (1, 1_000),
    };
    low + below(span, random)
}

fn below(bound: i32, random: &mut Random) -> i32 {
    i32::try_from(random.below(u64::from(bound.unsigned_abs()))).unwrap_or(0)
}

/// One of a list that is not empty.
fn pick<'a, T>(from: &'a [T], random: &mut Random) -> &'a T {
    let at = usize::try_from(random.below(from.len() as u64)).unwrap_or(0);
    #[expect(clippy::indexing_slicing, reason = "drawn below the length; all lists here have elements")]
    &from[at]
}
