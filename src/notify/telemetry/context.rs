//! What both exporters share: steps and figures of a command, and the context that its processes hand on.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest time that sending takes, all attempts together.
pub(crate) const BOUND: Duration = Duration::from_secs(8);
/// The same once the program was asked to end.
pub(crate) const BRIEF: Duration = Duration::from_secs(2);

/// A step of a command that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
}

/// A figure of a command, for a gauge.
#[derive(Debug)]
pub(crate) struct Figure<'a> {
    /// Without `pgstow.`.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) labels: &'a [(&'static str, String)],
    pub(crate) value: f64,
}

/// The trace of this process: it has one, as it has one `TRACEPARENT`.
pub(crate) static CONTEXT: OnceLock<String> = OnceLock::new();

/// The variable by which processes of one trace find each other.
pub(crate) const TRACEPARENT: &str = "TRACEPARENT";

/// `TRACEPARENT` for the processes that this one starts; `None` where nothing is traced.
pub(crate) fn context() -> Option<&'static str> {
    CONTEXT.get().map(String::as_str)
}

/// True where the standard variables ask for traces or metrics. The usual default, a collector on this machine, is none: who
/// wants one says so.
#[cfg_attr(not(feature = "otel"), allow(dead_code, reason = "asked by the exporter alone"))]
pub(crate) fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).is_some_and(|value| !value.trim().is_empty());
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let named = ["", "TRACES_", "METRICS_"].iter().any(|part| set(&format!("OTEL_EXPORTER_OTLP_{part}ENDPOINT")));
    named && !disabled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_variables_switch_it_on() {
        let ask = |pairs: &[(&str, &str)]| {
            is_wanted(|name| pairs.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(ask(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318")]));
        assert!(ask(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://x/m")]));
        assert!(!ask(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318"), ("OTEL_SDK_DISABLED", "true")]));
        assert!(!ask(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]) && !ask(&[("OTEL_SERVICE_NAME", "x")]));
    }
}
