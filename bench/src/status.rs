//! gRPC status codes by name and number, and the time format of the `grpc-timeout` header.

use std::time::Duration;

use faultline_core::call::STATUS_NAMES;
use tonic::Code;

/// A status code's name in capitals, as the specification writes it.
pub fn code_name(code: Code) -> &'static str {
    usize::try_from(code as i32)
        .ok()
        .and_then(|number| STATUS_NAMES.get(number))
        .copied()
        .unwrap_or("UNKNOWN")
}

/// The number of a gRPC status name.
pub fn code_number(name: &str) -> Option<i32> {
    i32::try_from(STATUS_NAMES.iter().position(|&known| known == name)?).ok()
}

/// The `grpc-timeout` header: up to eight digits and a unit.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let split = text.len().checked_sub(1)?;
    let (digits, unit) = (text.get(..split)?, text.get(split..)?);
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_in_every_unit() {
        assert_eq!(parse_timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("999999u"), Some(Duration::from_micros(999_999)));
        assert_eq!(parse_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("x"), None);
        assert_eq!(parse_timeout(""), None);
    }

    #[test]
    fn code_names_follow_the_numbers() {
        assert_eq!(code_name(Code::Ok), "OK");
        assert_eq!(code_name(Code::Unavailable), "UNAVAILABLE");
        assert_eq!(code_name(Code::Unauthenticated), "UNAUTHENTICATED");
        assert_eq!(code_number("RESOURCE_EXHAUSTED"), Some(8));
        assert_eq!(code_number("FINE"), None);
    }
}
