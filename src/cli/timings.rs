//! `--timings`: the time of each step, how long the stages worked and waited for each other, the requests by kind, and
//! the choices made. A table behind the result, and the object `timings` of `--json`.

use serde::Serialize;
use serde_json::Value;

use crate::cli::output;
use crate::human;
use crate::pipeline::clock::{Clock, Span};
use crate::store::Store;
use crate::store::traffic::Requests;

/// Everything that is known of the time a command took.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Timings {
    steps: Vec<Step>,
    stages: Vec<Stage>,
    requests: Vec<Requests>,
    choices: Vec<Choice>,
}

#[derive(Debug, Serialize)]
struct Step {
    name: String,
    seconds: f64,
}

/// Seconds of all tasks of a stage together.
#[derive(Debug, Serialize)]
struct Stage {
    name: &'static str,
    what: &'static str,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Choice {
    name: &'static str,
    value: String,
    why: String,
}

impl Timings {
    /// The timings of a command that uses this store and so many jobs.
    pub(crate) fn new(store: &Store, jobs: u16, given: u16) -> Self {
        let mut timings = Self { requests: store.requests(), ..Self::default() };
        let why = if jobs == given { "the default" } else { "as given" };
        timings.choose("jobs", jobs.to_string(), why.to_owned());
        if let Some(flight) = store.in_flight() {
            let why = match flight.shortest_ms {
                _ if flight.is_throttled => "the server asked for less".to_owned(),
                Some(ms) => format!("the shortest answer took {ms:.1} ms"),
                None => "no object was stored".to_owned(),
            };
            timings.choose("requests with a body in flight", flight.allowed.to_string(), why);
        }
        timings
    }

    /// Adds a step that took so long.
    pub(crate) fn step(&mut self, name: &str, seconds: f64) {
        self.steps.push(Step { name: name.to_owned(), seconds });
    }

    /// Adds a choice.
    pub(crate) fn choose(&mut self, name: &'static str, value: String, why: String) {
        self.choices.push(Choice { name, value, why });
    }

    fn stage(&mut self, name: &'static str, what: &'static str, span: &Span) {
        self.stages.push(Stage { name, what, seconds: span.seconds() });
    }

    /// Adds the stages between the database and the store.
    pub(crate) fn writing(&mut self, clock: &Clock) {
        self.stage("readers", "waited for rows of the database", &clock.server);
        self.stage("readers", "waited for memory or a compressor", &clock.room);
        self.stage("compressors", "worked", &clock.compress);
        self.stage("drain", "waited for compressed rows", &clock.rows);
        self.stage("drain", "wrote, and waited for the store", &clock.store);
    }

    /// Adds the stages between the store and whoever takes what is read.
    pub(crate) fn reading(&mut self, store: &Store, loads: bool) {
        self.stage("objects", "waited for the store", &store.traffic().store);
        if loads {
            self.stage("objects", "waited for the database", &store.traffic().taker);
        }
    }

    /// Puts the timings behind a result: into its document, or below its text.
    pub(crate) fn put(&self, text: &mut String, json: &mut Value) {
        if let (Value::Object(fields), Ok(timings)) = (json, serde_json::to_value(self)) {
            fields.insert("timings".to_owned(), timings);
        }
        text.push_str(&self.text());
    }

    fn text(&self) -> String {
        let seconds = |seconds: f64| format!("{seconds:.1} s");
        let mut rows: Vec<Vec<String>> = Vec::new();
        rows.extend(self.steps.iter().map(|step| vec![step.name.clone(), seconds(step.seconds), String::new()]));
        rows.extend(self.stages.iter().map(|one| vec![one.name.to_owned(), seconds(one.seconds), one.what.to_owned()]));
        rows.extend(self.requests.iter().map(|one| {
            let moved = match (one.sent_bytes, one.received_bytes) {
                (0, 0) => String::new(),
                (0, received) => format!("{} received", human::size(received)),
                (sent, _) => format!("{} sent", human::size(sent)),
            };
            vec![one.kind.to_owned(), human::count(one.count), moved]
        }));
        rows.extend(self.choices.iter().map(|one| vec![one.name.to_owned(), one.value.clone(), one.why.clone()]));
        format!("\n{}", output::table(&["timings", "", "all tasks of a stage together"], &[1], &rows))
    }
}
