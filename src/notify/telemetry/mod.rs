//! OpenTelemetry: a command as a trace, its steps as spans, its figures as metrics, sent at its end to the collector that
//! the standard variables name (`OTEL_EXPORTER_OTLP_ENDPOINT` and its siblings). Without such a variable nothing is made and
//! nothing is sent. A collector that is away costs a warning, and [`BOUND`] at most.
//!
//! The feature `otel`, on unless switched off, brings the exporter; without it the variables say nothing.

pub(crate) mod context;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(not(feature = "otel"))]
mod without;

#[cfg(feature = "otel")]
pub(crate) use self::otlp::Trace;
#[cfg(not(feature = "otel"))]
pub(crate) use self::without::Trace;
