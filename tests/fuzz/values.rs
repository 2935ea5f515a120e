//! Types of columns and values of them, with the edges of every built-in type. A value is an SQL expression; the
//! server refuses those that a domain or a constraint does not take.

use crate::words::{Dice, literal};
use proptest::prelude::any;

/// A type and how values of it are made.
#[derive(Debug, Clone)]
pub struct Type {
    /// As SQL names it.
    pub sql: String,
    pub kind: Kind,
}

/// The kinds of types.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Literals to choose from.
    Words(Vec<String>),
    Text,
    Integer,
    Float,
    Bytes,
    Composite(Vec<Type>),
    Array(Box<Type>),
    /// A domain or another name for a type.
    Over(Box<Type>),
    Range(Box<Type>),
}

/// Built-in types and the edges of their values; what one server version does not know yet is refused there.
const BUILT_IN: &[(&str, &[&str])] = &[
    ("smallint", &["-32768", "32767", "0", "7"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807", "0", "1"]),
    (
        "numeric",
        &[
            "NaN",
            "0",
            "-0.000",
            "123456789012345678901234567890.1234567890123456789",
            "1e-300",
            "1e300",
            "Infinity",
            "-Infinity",
        ],
    ),
    ("numeric(12,3)", &["NaN", "0.001", "-999999999.999"]),
    ("real", &["NaN", "Infinity", "-0", "3.4028235e38", "1.4e-45", "0.1"]),
    ("boolean", &["t", "f"]),
    ("date", &["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29", "0001-01-01 BC"]),
    (
        "timestamp",
        &["infinity", "-infinity", "294276-12-31 23:59:59.999999", "4714-11-24 00:00:00 BC", "1999-12-31 23:59:60"],
    ),
    ("timestamp(0)", &["2020-01-01 00:00:00.5", "infinity"]),
    (
        "timestamptz",
        &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00+00 BC",
            "2026-03-29 01:30:00+00",
            "1883-11-18 12:03:58+00",
            "0044-03-15 BC",
        ],
    ),
    ("time", &["24:00", "00:00", "23:59:59.999999"]),
    ("timetz", &["24:00-15:59", "00:00+15:59", "12:30:00.5+05:45"]),
    (
        "interval",
        &[
            "-178000000 years",
            "1 mon -2 days 03:04:05.678901",
            "00:00:00",
            "-1 year 2 mons -3 days",
            "P1Y2M3DT4H5M6.7S",
        ],
    ),
    ("interval day to second(3)", &["3 days 04:05:06.789", "-00:00:00.001"]),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ("json", &["{\"a\" :  1, \"a\": \"\\u00e9\", \"b\": \"x\\ny\"}", "null", "[]", " 1e400 ", "\"\\u2028\""]),
    ("jsonb", &["{\"z\": [1, null, {\"y\": 1e400}], \"a\": \"\"}", "null", "[[], {}, \"\"]", "-0.0", "{\"\": 1.00}"]),
    ("jsonpath", &["$.a[*] ? (@ > 1)", "strict $.\"a b\".keyvalue()"]),
    ("xml", &["<a b=\"c\">d &amp; e</a>", "text only", "<a/><b/>", "<?xml version=\"1.0\"?><r/>"]),
    ("money", &["-1234.56", "0", "92233720368547758.07", "-92233720368547758.08"]),
    ("bit(9)", &["101010101", "000000000"]),
    ("bit varying", &["", "1", "0101010101010101010101"]),
    ("inet", &["::1/64", "255.255.255.255", "10.1.2.3/8", "::ffff:1.2.3.4"]),
    ("cidr", &["10.0.0.0/8", "::/0"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("tsvector", &["'a b':1A c:2,3B", "", "'it''s':9999"]),
    ("tsquery", &["a:* & !(b | 'c d':AB)", "", "a <2> b"]),
    ("point", &["(1e300,-1e-300)", "(NaN,Infinity)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(1,1),(0,0)"]),
    ("path", &["[(0,0),(1,1)]", "((0,0),(1,1))"]),
    ("polygon", &["((0,0),(1,1),(2,0))"]),
    ("circle", &["<(0,0),1>", "<(1e10,-1),0>"]),
    ("pg_lsn", &["16/B374D848", "0/0"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("xid", &["1", "4294967295"]),
    ("xid8", &["18446744073709551615"]),
    ("tid", &["(4294967295,65535)", "(0,1)"]),
    ("oid", &["0", "4294967295"]),
    ("\"char\"", &["x", "\\377", "", "\\001"]),
    ("name", &["x", "a \"b\" c", ""]),
    ("bpchar", &["ab   ", "", " "]),
    ("char(7)", &["ab", "", "é😀"]),
    ("varchar(20)", &["ab  ", "", "\\."]),
    ("regclass", &["pg_catalog.pg_class", "-"]),
    ("regtype", &["integer", "-", "timestamp with time zone"]),
    ("regproc", &["pg_catalog.now", "-"]),
    ("regrole", &["postgres", "-"]),
    ("regnamespace", &["pg_catalog", "public"]),
    ("int4range", &["empty", "(,5)", "[1,10]", "(,)"]),
    ("numrange", &["[1.5,2.5)", "empty", "(,NaN]"]),
    ("tstzrange", &["[-infinity,infinity]", "[2020-01-01 00:00+00,)"]),
    ("datemultirange", &["{[2020-01-01,2020-02-01),[2021-01-01,)}", "{}"]),
    ("int4[]", &["{}", "[0:2]={1,NULL,3}", "{{1,2},{3,4}}", "[-1:0][5:6]={{1,2},{3,4}}"]),
    ("text[]", &["{\"a,b\",\"c\\\"d\",NULL,\"NULL\",\"\"}", "{}", "{{\" \"},{\"\\\\\\\\\"}}"]),
    ("jsonb[]", &["{\"{\\\"a\\\": 1}\",null}"]),
    ("float8[]", &["{NaN,-0,Infinity}"]),
    ("int2vector", &["1 2 3"]),
    ("oidvector", &["0 1 4294967295"]),
    ("txid_snapshot", &["10:20:10,14,15"]),
    ("pg_node_tree", &[]),
];

/// A built-in type.
pub fn built_in(dice: &mut Dice<'_>) -> Type {
    let simple = |sql: &str, kind| Type { sql: sql.to_owned(), kind };
    match dice.below(12) {
        0 | 1 => simple("integer", Kind::Integer),
        2 | 3 => simple("text", Kind::Text),
        4 => simple("double precision", Kind::Float),
        5 => simple("bytea", Kind::Bytes),
        _ => match dice.pick(BUILT_IN) {
            Some((sql, words)) => simple(sql, Kind::Words(words.iter().map(|word| (*word).to_owned()).collect())),
            None => simple("integer", Kind::Integer),
        },
    }
}

/// A value of that type, NULL among them.
pub fn value(dice: &mut Dice<'_>, of: &Type) -> String {
    if dice.chance(8) {
        return "NULL".to_owned();
    }
    let inner = match &of.kind {
        Kind::Words(words) => match dice.pick(words) {
            Some(word) => literal(word),
            None => return "NULL".to_owned(),
        },
        Kind::Text => dice.text(),
        Kind::Integer => {
            if dice.chance(60) {
                format!("({})", dice.below(50))
            } else {
                let number = dice.draw(any::<i32>());
                format!("'{number}'")
            }
        }
        Kind::Float => {
            let number = dice.draw(any::<f64>());
            format!("'{number:e}'")
        }
        Kind::Bytes => {
            let bytes = dice.draw(proptest::collection::vec(any::<u8>(), 0..20));
            let hex = pgstow::seal::hash::hex(&bytes);
            format!("'\\x{hex}'")
        }
        Kind::Composite(fields) => {
            let fields: Vec<String> = fields.iter().map(|field| value(dice, field)).collect();
            format!("ROW({})", fields.join(", "))
        }
        Kind::Array(element) => {
            let count = dice.below(4);
            let elements: Vec<String> = (0..count).map(|_| value(dice, element)).collect();
            format!("ARRAY[{}]::{}", elements.join(", "), of.sql)
        }
        Kind::Over(base) => value(dice, base),
        Kind::Range(bound) => {
            let from = value(dice, bound);
            if dice.chance(30) {
                return format!("{}({from}, NULL, '()')", of.sql);
            }
            return format!("{}({from}, {from}, '[]')", of.sql);
        }
    };
    format!("({inner})::{}", of.sql)
}
