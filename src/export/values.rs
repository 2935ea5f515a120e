//! From PostgreSQL's text of a value to Parquet's: exact, or `None` where Parquet's type cannot hold it (infinities, NaN in a
//! decimal, 24:00, years beyond 64 bits of microseconds). Text as a backup makes it: ISO dates, hexadecimal bytea.

const MICROS_A_SECOND: i64 = 1_000_000;
const SECONDS_A_DAY: i64 = 86_400;

/// `t` or `f`.
pub(super) fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"t" => Some(true),
        b"f" => Some(false),
        _ => None,
    }
}

/// A number in Rust's spelling, which for integers and floats is PostgreSQL's.
pub(super) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A decimal as a whole number of its last digit. Refuses more digits than there is room for.
pub(super) fn decimal(text: &[u8], precision: u32, scale: u32) -> Option<i128> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    let (mut unscaled, mut behind, mut seen) = (0_i128, None, false);
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                unscaled = unscaled.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                behind = behind.map(|count: u32| count + 1);
                seen = true;
            }
            b'.' if behind.is_none() => behind = Some(0),
            _ => return None,
        }
    }
    let missing = scale.checked_sub(behind.unwrap_or_default())?;
    let unscaled = unscaled.checked_mul(10_i128.checked_pow(missing)?)?;
    let fits = seen && unscaled < 10_i128.checked_pow(precision)?;
    fits.then_some(if negative { -unscaled } else { unscaled })
}

/// Hexadecimal `bytea`.
pub(super) fn bytea(text: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let digits = text.strip_prefix(br"\x")?;
    if digits.len() % 2 != 0 {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let before = into.len();
    for pair in digits.chunks_exact(2) {
        let both = match pair {
            [high, low] => digit(high).zip(digit(low)),
            _ => None,
        };
        let Some((high, low)) = both else {
            into.truncate(before);
            return None;
        };
        into.push((high << 4) | low);
    }
    Some(())
}

/// A `uuid` as its 16 bytes.
pub(super) fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'-').collect();
    let mut bytes = Vec::with_capacity(18);
    bytea(&[br"\x".as_slice(), &digits].concat(), &mut bytes)?;
    bytes.try_into().ok()
}

/// Days since 1970-01-01.
pub(super) fn date(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?;
    let (text, before_christ) = era(text);
    i32::try_from(days(text, before_christ)?).ok()
}

/// Microseconds since midnight. 24:00:00 is not one of the day.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let micros = clock(std::str::from_utf8(text).ok()?)?;
    (micros < SECONDS_A_DAY * MICROS_A_SECOND).then_some(micros)
}

/// Microseconds since 1970-01-01 00:00:00, in UTC where the text has an offset.
pub(super) fn timestamp(text: &[u8], has_offset: bool) -> Option<i64> {
    let (text, before_christ) = era(std::str::from_utf8(text).ok()?);
    let (day, clock_and_offset) = text.split_once(' ')?;
    let sign = clock_and_offset.rfind(['+', '-']).filter(|_| has_offset);
    let (of_day, offset) = match sign {
        Some(at) => (clock_and_offset.get(..at)?, offset(clock_and_offset.get(at..)?)?),
        None if has_offset => return None,
        None => (clock_and_offset, 0),
    };
    let seconds = days(day, before_christ)?.checked_mul(SECONDS_A_DAY)?.checked_sub(offset)?;
    seconds.checked_mul(MICROS_A_SECOND)?.checked_add(clock(of_day)?)
}

/// The text without the mark of years before the first.
fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Days from 1970-01-01 to `YYYY-MM-DD`, in the Gregorian calendar of all times. The year before 1 is 1 BC.
fn days(text: &str, before_christ: bool) -> Option<i64> {
    let mut fields = text.split('-').map(digits);
    let (year, month, day) = (fields.next()??, fields.next()??, fields.next()??);
    if fields.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    // Years from March: a leap day is the last of its year. 400 years have 146,097 days.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Microseconds of `HH:MM:SS[.ffffff]`.
fn clock(text: &str) -> Option<i64> {
    let mut fields = text.split(':');
    let (hours, minutes) = (digits(fields.next()?)?, digits(fields.next()?)?);
    let (seconds, fraction) = fields.next().map(|text| text.split_once('.').unwrap_or((text, "0")))?;
    if fields.next().is_some() || fraction.len() > 6 {
        return None;
    }
    let places = u32::try_from(6 - fraction.len()).ok()?;
    let micros = digits(fraction)? * 10_i64.pow(places);
    Some((hours * 3600 + minutes * 60 + digits(seconds)?) * MICROS_A_SECOND + micros)
}

/// Seconds of `+HH[:MM[:SS]]`, east of Greenwich.
fn offset(text: &str) -> Option<i64> {
    let negative = text.starts_with('-');
    let mut seconds = 0;
    let mut unit = 3600;
    for field in text.get(1..)?.split(':') {
        seconds += digits(field)? * unit;
        unit /= 60;
    }
    Some(if negative { -seconds } else { seconds })
}

fn digits(text: &str) -> Option<i64> {
    let is_number = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The elements of an array of one dimension that begins at 1, as PostgreSQL writes it (`array_out`); `None` for any other.
pub(super) fn array(text: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let mut rest = text.strip_prefix(b"{")?;
    let mut elements = Vec::new();
    if rest == b"}" {
        return Some(elements);
    }
    loop {
        let (element, after) = element(rest)?;
        elements.push(element);
        match after.split_first()? {
            (b',', more) => rest = more,
            (b'}', []) => return Some(elements),
            _ => return None,
        }
    }
}

/// The element that begins here, and what follows it.
fn element(text: &[u8]) -> Option<(Option<Vec<u8>>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| matches!(byte, b',' | b'}'))?;
        let (bare, rest) = text.split_at(end);
        let is_plain = !bare.is_empty() && !bare.iter().any(|byte| matches!(byte, b'{' | b'"' | b'\\'));
        return is_plain.then(|| ((bare != b"NULL").then(|| bare.to_vec()), rest));
    };
    let mut value = Vec::new();
    loop {
        match rest.split_first()? {
            (b'"', after) => return Some((Some(value), after)),
            (b'\\', after) => {
                let (escaped, after) = after.split_first()?;
                value.push(*escaped);
                rest = after;
            }
            (byte, after) => {
                value.push(*byte);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_whole_numbers_of_their_last_digit() {
        assert_eq!(decimal(b"-12.50", 5, 2), Some(-1250));
        assert_eq!(decimal(b"0.001", 5, 5), Some(100));
        assert_eq!(decimal(b"99999999999999999999999999999999999999", 38, 0), Some(10_i128.pow(38) - 1));
        for wrong in [&b"NaN"[..], b"Infinity", b"1000.00", b"1.234", b"", b"-", b".", b"1.2.3"] {
            assert_eq!(decimal(wrong, 5, 2), None, "{wrong:?}");
        }
    }

    #[test]
    fn days_and_moments_are_counted_from_1970() {
        for (text, expected) in [
            ("1970-01-01", 0),
            ("2000-02-29", 11_016),
            ("1969-12-31", -1),
            ("0001-01-01", -719_162),
            ("0001-12-31 BC", -719_163),
            ("4713-01-01 BC", -2_440_550),
            ("5874897-12-31", 2_145_042_905),
        ] {
            assert_eq!(date(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!((date(b"infinity"), date(b"-infinity"), date(b"2000-13-01")), (None, None, None));
        assert_eq!(timestamp(b"1970-01-02 00:00:00.5", false), Some(86_400_500_000));
        assert_eq!(timestamp(b"1969-12-31 23:59:59.999999+00", true), Some(-1));
        assert_eq!(timestamp(b"1970-01-01 05:30:00+05:30", true), Some(0));
        assert_eq!(timestamp(b"1969-12-31 19:00:00-05", true), Some(0));
        assert_eq!(timestamp(b"294276-12-31 23:59:59.999999", false), None);
        assert_eq!(timestamp(b"294246-12-31 23:59:59.999999", false), Some(9_223_371_244_799_999_999));
        assert_eq!((time(b"23:59:59.000001"), time(b"24:00:00")), (Some(86_399_000_001), None));
    }

    #[test]
    fn arrays_of_one_dimension_fall_into_their_elements() {
        let some = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(array(b"{}"), Some(Vec::new()));
        assert_eq!(
            array(br#"{1,NULL,"NULL","a,\"b\\","",x y}"#),
            Some(vec![some("1"), None, some("NULL"), some("a,\"b\\"), some(""), some("x y")])
        );
        for other in [&b"{{1,2}}"[..], b"[0:1]={1,2}", b"{1", b"{1}x", b"", b"{,}", br#"{"a}"#] {
            assert_eq!(array(other), None, "{other:?}");
        }
    }

    #[test]
    fn bytes_and_identifiers_are_hexadecimal() {
        let mut bytes = vec![9];
        assert_eq!((bytea(br"\x00fF", &mut bytes), bytes.as_slice()), (Some(()), &[9, 0, 255][..]));
        assert_eq!(
            (bytea(br"\x0", &mut bytes), bytea(br"\x0g", &mut bytes), bytea(b"00", &mut bytes)),
            (None, None, None)
        );
        assert_eq!(bytes.len(), 3);
        assert_eq!(uuid(b"00000000-0000-0000-0000-0000000000ff").map(|all| all.last().copied()), Some(Some(255)));
        assert_eq!(uuid(b"00"), None);
    }
}
