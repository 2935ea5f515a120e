//! Traces and metrics over OTLP/HTTP (JSON, or protobuf by `OTEL_EXPORTER_OTLP_PROTOCOL`), by the crates of the
//! OpenTelemetry project and the HTTP client that is here already. Their exporters work on threads of their own, which have
//! no reactor: the client hands each request to the runtime of the program.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::notify::event::Notification;
use crate::notify::send::{self, HttpsClient};
use crate::notify::telemetry::context::{CONTEXT, Figure, Step, TRACEPARENT, is_wanted};

const NAME: &str = "pgstow";
/// Bytes of an answer that are read.
const ANSWER: usize = 64 << 10;

/// The trace of a command that is under way.
pub(crate) struct Trace {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    tracer: SdkTracer,
    /// The command's own span.
    root: Context,
    begun: (Instant, SystemTime),
    http: Http,
}

impl Trace {
    /// Begins the trace of a command, where the standard variables ask for it; it is part of the trace that `TRACEPARENT`
    /// names. Variables that make no sense are a warning.
    pub(crate) fn begin(command: &'static str) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        if !is_wanted(variable) {
            return None;
        }
        match Self::new(command) {
            Ok(trace) => Some(trace),
            Err(error) => {
                tracing::warn!("no telemetry: {error}");
                None
            }
        }
    }

    fn new(command: &'static str) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let http = Http {
            client: send::client(),
            runtime: tokio::runtime::Handle::current(),
            failure: Arc::new(Mutex::new(None)),
        };
        let wanted = |name: &str| std::env::var(name).map_or(true, |value| !value.eq_ignore_ascii_case("none"));
        let mut tracers = SdkTracerProvider::builder().with_resource(resource());
        if wanted("OTEL_TRACES_EXPORTER") {
            let exporter = SpanExporter::builder().with_http().with_http_client(http.clone()).build()?;
            tracers = tracers.with_batch_exporter(exporter);
        }
        let mut meters = SdkMeterProvider::builder().with_resource(resource());
        if wanted("OTEL_METRICS_EXPORTER") {
            let exporter = MetricExporter::builder().with_http().with_http_client(http.clone()).build()?;
            // Read once, at the end.
            meters =
                meters.with_reader(PeriodicReader::builder(exporter).with_interval(Duration::from_hours(24)).build());
        }
        let (tracers, meters) = (tracers.build(), meters.build());
        let tracer = tracers.tracer(NAME);
        let parent = std::env::var(TRACEPARENT).map(|value| HashMap::from([("traceparent".to_owned(), value)]));
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &parent.unwrap_or_default());
        let span = tracer.span_builder(format!("pgstow {command}")).start_with_context(&tracer, &parent);
        let root = parent.with_span(span);
        let mut carrier = HashMap::new();
        TraceContextPropagator::new().inject_context(&root, &mut carrier);
        if let Some(context) = carrier.remove("traceparent") {
            let own = CONTEXT.get_or_init(|| context);
            tracing::debug!("traced as {own}");
        }
        Ok(Self { tracers, meters, tracer, root, begun: (Instant::now(), SystemTime::now()), http })
    }

    /// Ends the trace and sends everything, within `bound`. A failure is a warning.
    pub(crate) async fn end(self, end: &Notification, steps: &[Step], figures: &[Figure<'_>], bound: Duration) {
        self.spans(end, steps);
        self.measure(end, figures);
        let (tracers, meters) = (self.tracers.clone(), self.meters.clone());
        let sent = async {
            let traces = tokio::task::spawn_blocking(move || tracers.shutdown_with_timeout(bound));
            let metrics = tokio::task::spawn_blocking(move || meters.shutdown_with_timeout(bound));
            let (traces, metrics) = tokio::join!(traces, metrics);
            [traces, metrics].into_iter().find_map(|sent| match sent {
                Ok(sent) => sent.err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            })
        };
        let failure = match tokio::time::timeout(bound, sent).await {
            Ok(None) => self.http.failure(),
            Ok(Some(error)) => Some(self.http.failure().unwrap_or(error)),
            Err(_elapsed) => Some(format!("not sent within {}", humantime::format_duration(bound))),
        };
        if let Some(failure) = failure {
            tracing::warn!("traces and metrics were not sent to the collector: {failure}");
        }
        // Nobody waits for it: dropped, the providers would wait once more for a collector that is away.
        std::mem::forget(self);
    }

    fn spans(&self, end: &Notification, steps: &[Step]) {
        let (begun, at) = self.begun;
        for step in steps {
            let from = at + step.begun.saturating_duration_since(begun);
            let builder = self.tracer.span_builder(step.name).with_start_time(from);
            builder.start_with_context(&self.tracer, &self.root).end_with_timestamp(from + step.took);
        }
        let root = self.root.span();
        let texts = [
            ("pgstow.event", Some(end.event.as_str().to_owned())),
            ("pgstow.run", end.run.clone()),
            ("pgstow.store", end.store.clone()),
            ("db.namespace", end.name.clone()),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                root.set_attribute(KeyValue::new(key, value));
            }
        }
        root.set_attribute(KeyValue::new("process.exit.code", i64::from(end.exit_code.unwrap_or_default())));
        if end.event.is_problem() {
            root.set_status(Status::error(end.message.clone()));
        }
        root.end();
    }

    fn measure(&self, end: &Notification, figures: &[Figure<'_>]) {
        let meter = self.meters.meter(NAME);
        let own = [("command", end.command.clone()), ("store", end.store.clone().unwrap_or_default())];
        let code = f64::from(end.exit_code.unwrap_or_default());
        let head = [
            Figure { name: "exit_code", help: "Exit code of the command.", labels: &own, value: code },
            Figure {
                name: "duration_seconds",
                help: "Time that the command took.",
                labels: &own,
                value: end.seconds.unwrap_or_default(),
            },
        ];
        for figure in head.iter().chain(figures) {
            let labels: Vec<KeyValue> =
                figure.labels.iter().map(|(name, value)| KeyValue::new(*name, value.clone())).collect();
            let gauge = meter.f64_gauge(format!("{NAME}.{}", figure.name)).with_description(figure.help);
            gauge.build().record(figure.value, &labels);
        }
    }
}

/// `service.name` is ours unless the variables name one.
fn resource() -> Resource {
    let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if named { builder.build() } else { builder.with_service_name(NAME).build() }
}

/// Sends requests of the exporters on the runtime of the program.
#[derive(Clone)]
struct Http {
    client: HttpsClient,
    runtime: tokio::runtime::Handle,
    /// The last failure.
    failure: Arc<Mutex<Option<String>>>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    fn failure(&self) -> Option<String> {
        self.failure.lock().ok().and_then(|mut failure| failure.take())
    }

    fn note(&self, failure: Option<String>) {
        if let Ok(mut kept) = self.failure.lock() {
            *kept = failure;
        }
    }
}

async fn answer(client: HttpsClient, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let answer = client.request(request.map(Full::new)).await?;
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, Limited::new(body, ANSWER).collect().await?.to_bytes()))
}

impl HttpClient for Http {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let sent = self.runtime.spawn(answer(self.client.clone(), request)).await?;
            self.note(match &sent {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("HTTP {}", answer.status().as_u16())),
                Err(error) => Some(send::reason(&**error)),
            });
            sent
        })
    }
}
