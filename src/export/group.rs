//! The columns of one row group in memory, value by value, and how they are written when it is full. A value that its column
//! cannot hold is refused; the caller then gives the column a wider type and begins again.

use bytes::Bytes;
use parquet::basic::Type as Physical;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type,
};
use parquet::errors::Result;
use parquet::file::writer::SerializedColumnWriter;

use crate::export::kinds::Kind;
use crate::export::values;

/// Levels that are handed over at once where each value is an object of its own.
const AT_ONCE: usize = 4096;

/// One column.
pub(super) struct Column {
    kind: Kind,
    values: Values,
    /// How much of each value is there: for a list 0 no list, 1 no element, 2 an element that is NULL, 3 one with a value; for
    /// any other column 0 is NULL.
    definition: Vec<i16>,
    /// For a list: 0 begins a row.
    repetition: Vec<i16>,
}

enum Values {
    Boolean(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    /// One behind the other, with the end of each.
    Bytes(Vec<u8>, Vec<usize>),
}

impl Values {
    fn new(kind: &Kind) -> Self {
        match kind.physical() {
            Physical::BOOLEAN => Self::Boolean(Vec::new()),
            Physical::INT32 => Self::Int32(Vec::new()),
            Physical::INT64 => Self::Int64(Vec::new()),
            Physical::FLOAT => Self::Float(Vec::new()),
            Physical::DOUBLE => Self::Double(Vec::new()),
            Physical::INT96 | Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY => {
                Self::Bytes(Vec::new(), Vec::new())
            }
        }
    }

    /// Adds a value; `None` where the column cannot hold it.
    fn push(&mut self, kind: &Kind, text: &[u8]) -> Option<()> {
        match self {
            Self::Boolean(all) => all.push(values::boolean(text)?),
            Self::Int32(all) => all.push(match kind {
                Kind::Date => values::date(text)?,
                Kind::Decimal { precision, scale } => i32::try_from(values::decimal(text, *precision, *scale)?).ok()?,
                Kind::Int16 => i32::from(values::number::<i16>(text)?),
                _ => values::number(text)?,
            }),
            Self::Int64(all) => all.push(match kind {
                Kind::Time => values::time(text)?,
                Kind::Timestamp { utc } => values::timestamp(text, *utc)?,
                Kind::Decimal { precision, scale } => i64::try_from(values::decimal(text, *precision, *scale)?).ok()?,
                _ => values::number(text)?,
            }),
            Self::Float(all) => all.push(values::number(text)?),
            Self::Double(all) => all.push(values::number(text)?),
            Self::Bytes(bytes, ends) => {
                match kind {
                    Kind::Bytea => values::bytea(text, bytes)?,
                    Kind::Uuid => bytes.extend(values::uuid(text)?),
                    Kind::Decimal { precision, scale } => {
                        bytes.extend(values::decimal(text, *precision, *scale)?.to_be_bytes());
                    }
                    Kind::Raw => bytes.extend(text),
                    _ => bytes.extend(std::str::from_utf8(text).ok()?.as_bytes()),
                }
                ends.push(bytes.len());
            }
        }
        Some(())
    }
}

impl Column {
    pub(super) fn new(kind: &Kind) -> Self {
        let kind = kind.clone();
        Self { values: Values::new(&kind), kind, definition: Vec::new(), repetition: Vec::new() }
    }

    /// Adds the value of one row. False where the column cannot hold it: the column is no use after that.
    #[must_use]
    pub(super) fn push(&mut self, value: Option<&[u8]>) -> bool {
        self.add(value).is_some()
    }

    fn add(&mut self, value: Option<&[u8]>) -> Option<()> {
        let Kind::List(element) = &self.kind else {
            self.definition.push(i16::from(value.is_some()));
            return value.map_or(Some(()), |text| self.values.push(&self.kind, text));
        };
        let elements = match value {
            Some(text) => values::array(text)?,
            None => Vec::new(),
        };
        if elements.is_empty() {
            self.definition.push(i16::from(value.is_some()));
            self.repetition.push(0);
        }
        for (at, value) in elements.iter().enumerate() {
            self.repetition.push(i16::from(at > 0));
            self.definition.push(if value.is_some() { 3 } else { 2 });
            if let Some(text) = value {
                self.values.push(element, text)?;
            }
        }
        Some(())
    }

    /// Writes the column and empties it.
    pub(super) fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let is_list = matches!(self.kind, Kind::List(_));
        let definition = std::mem::take(&mut self.definition);
        let repetition = std::mem::take(&mut self.repetition);
        let levels = Levels { definition: &definition, repetition: is_list.then_some(&repetition) };
        let values = std::mem::replace(&mut self.values, Values::new(&self.kind));
        match values {
            Values::Boolean(all) => levels.write::<BoolType>(writer, &all),
            Values::Int32(all) => levels.write::<Int32Type>(writer, &all),
            Values::Int64(all) => levels.write::<Int64Type>(writer, &all),
            Values::Float(all) => levels.write::<FloatType>(writer, &all),
            Values::Double(all) => levels.write::<DoubleType>(writer, &all),
            Values::Bytes(bytes, ends) if self.kind.physical() == Physical::FIXED_LEN_BYTE_ARRAY => {
                let one = |bytes: Bytes| FixedLenByteArray::from(ByteArray::from(bytes));
                levels.write_bytes::<FixedLenByteArrayType>(writer, &bytes.into(), &ends, one)
            }
            Values::Bytes(bytes, ends) => {
                levels.write_bytes::<ByteArrayType>(writer, &bytes.into(), &ends, ByteArray::from)
            }
        }
    }
}

/// The levels of a column's values.
struct Levels<'a> {
    definition: &'a [i16],
    repetition: Option<&'a Vec<i16>>,
}

impl Levels<'_> {
    fn write<T: DataType>(&self, writer: &mut SerializedColumnWriter<'_>, values: &[T::T]) -> Result<()> {
        let repetition = self.repetition.map(Vec::as_slice);
        writer.typed::<T>().write_batch(values, Some(self.definition), repetition).map(drop)
    }

    /// Some values after the other, cut between rows: each is an object while it is written.
    fn write_bytes<T: DataType>(
        &self,
        writer: &mut SerializedColumnWriter<'_>,
        bytes: &Bytes,
        ends: &[usize],
        one: impl Fn(Bytes) -> T::T,
    ) -> Result<()> {
        let full = if self.repetition.is_some() { 3 } else { 1 };
        let (mut from, mut begin, mut ends) = (0, 0, ends.iter().copied());
        while from < self.definition.len() {
            let mut to = self.definition.len().min(from + AT_ONCE);
            while self.repetition.and_then(|all| all.get(to)).is_some_and(|level| *level != 0) {
                to += 1;
            }
            let definition = self.definition.get(from..to).unwrap_or_default();
            let count = definition.iter().filter(|level| **level == full).count();
            let mut values = Vec::with_capacity(count);
            for end in ends.by_ref().take(count) {
                values.push(one(bytes.slice(begin..end)));
                begin = end;
            }
            let repetition = self.repetition.and_then(|all| all.get(from..to));
            writer.typed::<T>().write_batch(&values, Some(definition), repetition)?;
            from = to;
        }
        Ok(())
    }
}
