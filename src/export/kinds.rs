//! From the type that PostgreSQL has for a column to the one that Parquet has: whichever holds every value exactly, and text
//! where there is none. Types are read as pg_dump wrote them; domains are followed to their base.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use libpgdump::{Entry, ObjectType};
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::Result;
use parquet::schema::types::{Type, TypePtr};

use crate::archive::columns;
use crate::sql::names::TableName;
use crate::sql::statements;

/// Digits that Parquet's decimals have at most, as readers know them.
const DIGITS: u32 = 38;

/// Domains over domains that are followed at most: a forged archive may have a circle.
const DEEPEST: usize = 64;

/// The types of a file's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    Decimal {
        precision: u32,
        scale: u32,
    },
    Date,
    Time,
    Timestamp {
        utc: bool,
    },
    Uuid,
    /// Bytes that `bytea` wrote as hex digits.
    Bytea,
    Json,
    Text,
    /// What COPY wrote, in an encoding that is not UTF-8.
    Raw,
    List(Box<Kind>),
}

/// The domains of a run, by name, with the types that they are made of.
#[derive(Debug, Default)]
pub(super) struct Domains(HashMap<TableName, String>);

impl Domains {
    /// Of the entries of `@database.dump`.
    pub(super) fn new(entries: &[Entry]) -> Self {
        let of_domains = entries.iter().filter(|entry| entry.desc == ObjectType::Domain);
        Self(of_domains.filter_map(|entry| columns::domain(entry.defn.as_deref()?)).collect())
    }

    /// The type for a column of this type; `None` is a type that the run does not say.
    pub(super) fn kind(&self, declared: Option<&str>) -> Kind {
        let Some(mut declared) = declared else { return Kind::Text };
        let mut is_list = false;
        for _level in 0..DEEPEST {
            if let Some(element) = declared.strip_suffix("[]") {
                // A domain over an array, in an array: Parquet would have lists of lists, PostgreSQL has not.
                if is_list || element == "box" {
                    return Kind::Text;
                }
                (is_list, declared) = (true, element);
                continue;
            }
            let Some(base) = self.base(declared) else {
                let kind = scalar(declared);
                return if is_list { Kind::List(Box::new(kind)) } else { kind };
            };
            declared = base;
        }
        Kind::Text
    }

    fn base(&self, declared: &str) -> Option<&str> {
        let (schema, rest) = statements::name(declared)?;
        let (name, _) = statements::name(rest.strip_prefix('.')?)?;
        self.0.get(&TableName::new(schema, name)).map(String::as_str)
    }
}

/// The type for one of PostgreSQL's own, as `format_type` writes it. Types of users stand behind their schema.
fn scalar(declared: &str) -> Kind {
    match declared {
        "boolean" => return Kind::Boolean,
        "smallint" => return Kind::Int16,
        "integer" => return Kind::Int32,
        "bigint" => return Kind::Int64,
        "real" => return Kind::Float,
        "double precision" => return Kind::Double,
        "date" => return Kind::Date,
        "uuid" => return Kind::Uuid,
        "bytea" => return Kind::Bytea,
        "json" | "jsonb" => return Kind::Json,
        _ => {}
    }
    let has = |begin: &str, end: &str| {
        let inner = declared.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
        inner.is_some_and(|inner| inner.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'(' | b')')))
    };
    if has("timestamp", " with time zone") {
        return Kind::Timestamp { utc: true };
    }
    if has("timestamp", " without time zone") {
        return Kind::Timestamp { utc: false };
    }
    if has("time", " without time zone") {
        return Kind::Time;
    }
    decimal(declared).unwrap_or(Kind::Text)
}

/// `numeric(p,s)`: a scale below zero adds digits before the point, one above the precision has them all behind it.
fn decimal(declared: &str) -> Option<Kind> {
    let (precision, scale) = declared.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u32, i32) = (precision.parse().ok()?, scale.parse().ok()?);
    let (precision, scale) = match u32::try_from(scale) {
        Ok(scale) => (precision.max(scale), scale),
        Err(_below_zero) => (precision.checked_add(scale.unsigned_abs())?, 0),
    };
    (1..=DIGITS).contains(&precision).then_some(Kind::Decimal { precision, scale })
}

impl Kind {
    /// The type whose values take the place of those that this one cannot hold; `None` where it holds everything.
    pub(super) fn wider(&self) -> Option<Self> {
        match self {
            Self::Raw => None,
            Self::Text => Some(Self::Raw),
            _ => Some(Self::Text),
        }
    }

    /// The same, for rows that are not in UTF-8.
    pub(super) fn in_foreign_encoding(self) -> Self {
        match self {
            Self::Text | Self::Json => Self::Raw,
            Self::List(element) => Self::List(Box::new(element.in_foreign_encoding())),
            other => other,
        }
    }

    /// How values lie in the file.
    pub(super) fn physical(&self) -> Physical {
        match self {
            Self::Boolean => Physical::BOOLEAN,
            Self::Int16 | Self::Int32 | Self::Date => Physical::INT32,
            Self::Decimal { precision, .. } if *precision <= 9 => Physical::INT32,
            Self::Int64 | Self::Time | Self::Timestamp { .. } => Physical::INT64,
            Self::Decimal { precision, .. } if *precision <= 18 => Physical::INT64,
            Self::Float => Physical::FLOAT,
            Self::Double => Physical::DOUBLE,
            Self::Decimal { .. } | Self::Uuid => Physical::FIXED_LEN_BYTE_ARRAY,
            Self::Bytea | Self::Json | Self::Text | Self::Raw => Physical::BYTE_ARRAY,
            Self::List(element) => element.physical(),
        }
    }

    fn logical(&self) -> Option<LogicalType> {
        match self {
            Self::Int16 => Some(LogicalType::integer(16, true)),
            Self::Decimal { precision, scale } => {
                Some(LogicalType::decimal(i32::try_from(*scale).ok()?, i32::try_from(*precision).ok()?))
            }
            Self::Date => Some(LogicalType::Date),
            Self::Time => Some(LogicalType::time(false, TimeUnit::MICROS)),
            Self::Timestamp { utc } => Some(LogicalType::timestamp(*utc, TimeUnit::MICROS)),
            Self::Uuid => Some(LogicalType::Uuid),
            Self::Json => Some(LogicalType::Json),
            Self::Text => Some(LogicalType::String),
            Self::List(_) => Some(LogicalType::List),
            Self::Boolean | Self::Int32 | Self::Int64 | Self::Float | Self::Double | Self::Bytea | Self::Raw => None,
        }
    }

    /// The field of a file's schema. All may be NULL.
    pub(super) fn field(&self, name: &str) -> Result<TypePtr> {
        if let Self::List(element) = self {
            let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
            let list = list.with_fields(vec![element.field("element")?]).build()?;
            let outer = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
            let outer = outer.with_logical_type(self.logical()).with_fields(vec![Arc::new(list)]);
            return outer.build().map(Arc::new);
        }
        let mut field = Type::primitive_type_builder(name, self.physical())
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(self.logical());
        if let Self::Decimal { precision, scale } = self {
            let fits = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
            field = field.with_precision(fits(*precision)).with_scale(fits(*scale));
        }
        if self.physical() == Physical::FIXED_LEN_BYTE_ARRAY {
            field = field.with_length(16);
        }
        field.build().map(Arc::new)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "BOOLEAN",
            Self::Int16 => "INT(16)",
            Self::Int32 => "INT(32)",
            Self::Int64 => "INT(64)",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Decimal { precision, scale } => return write!(f, "DECIMAL({precision},{scale})"),
            Self::Date => "DATE",
            Self::Time => "TIME(MICROS)",
            Self::Timestamp { utc: true } => "TIMESTAMP(MICROS,UTC)",
            Self::Timestamp { utc: false } => "TIMESTAMP(MICROS)",
            Self::Uuid => "UUID",
            Self::Bytea | Self::Raw => "BYTE_ARRAY",
            Self::Json => "JSON",
            Self::Text => "STRING",
            Self::List(element) => return write!(f, "LIST<{element}>"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_followed_to_what_holds_their_values() {
        let pairs = [("d", "numeric(5,2)"), ("over", "s.d"), ("list", "integer[]"), ("round", "s.round")];
        let domains = pairs.map(|(name, base)| (TableName::new("s", name), base.to_owned()));
        let domains = Domains(domains.into_iter().collect());
        for (declared, shown) in [
            ("numeric(38,10)", "DECIMAL(38,10)"),
            ("numeric(39,0)", "STRING"),
            ("numeric(3,-2)", "DECIMAL(5,0)"),
            ("numeric(3,5)", "DECIMAL(5,5)"),
            ("numeric", "STRING"),
            ("timestamp(3) with time zone", "TIMESTAMP(MICROS,UTC)"),
            ("timestamp without time zone[]", "LIST<TIMESTAMP(MICROS)>"),
            ("time(0) without time zone", "TIME(MICROS)"),
            ("time with time zone", "STRING"),
            ("public.date", "STRING"),
            ("s.over", "DECIMAL(5,2)"),
            ("s.over[]", "LIST<DECIMAL(5,2)>"),
            ("s.list", "LIST<INT(32)>"),
            ("s.list[]", "STRING"),
            ("s.round", "STRING"),
            ("box[]", "STRING"),
            ("\"char\"", "STRING"),
        ] {
            assert_eq!(domains.kind(Some(declared)).to_string(), shown, "{declared}");
        }
        assert_eq!(domains.kind(None), Kind::Text);
    }
}
