//! Alarms that arrive: who is told of the start and the end of a command, and how.
//!
//! [`target`] reads where to (`https://...`, `slack+https://...`, `mailto:...`), [`event`] is what is told, [`message`] puts it
//! into the form that each receiver takes, [`send`] delivers it: retried, and bounded in time. A notification that
//! fails is part of the answer of [`Notifier`], never a failure of the command. [`telemetry`] tells a collector.

pub(crate) mod event;
pub(crate) mod mail;
pub(crate) mod message;
pub(crate) mod send;
pub(crate) mod target;
pub(crate) mod telemetry;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::error::{Kind, Result};
use crate::format::manifest::NotNotified;
use crate::notify::event::{Event, Notification};
use crate::notify::message::Request;
use crate::notify::send::Sender;
use crate::notify::target::{Form, Target, When};

/// Longest time that the notifications of one moment take, all attempts together.
const BOUND: Duration = Duration::from_secs(20);
/// The same once the program was asked to end: platforms kill ten seconds after that.
const BRIEF: Duration = Duration::from_secs(4);

/// The result of one notification.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Delivery {
    /// The kind of the receiver and its host: never the whole address, which may be a secret.
    pub(crate) target: String,
    pub(crate) event: Event,
    pub(crate) ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Tells the receivers of one command, or of one database.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    targets: Arc<Vec<Target>>,
    when: When,
    started: Option<JoinHandle<Vec<Delivery>>>,
    /// Groups the start and the end of one command, where a receiver knows such a thing.
    id: String,
    /// The failures of the start, each as soon as it is known.
    failures: Failures,
}

/// Notifications that have failed so far.
pub(crate) type Failures = Arc<Mutex<Vec<NotNotified>>>;

impl Notifier {
    /// Reads the addresses.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn new(addresses: &[String], when: When) -> Result<Self> {
        let addresses = addresses.iter().map(|address| address.trim()).filter(|address| !address.is_empty());
        let mut targets: Vec<Target> = Vec::new();
        for address in addresses {
            // The commas of `mailto:one@x,two@y` separate receivers everywhere else.
            match targets.last_mut() {
                Some(Target { form: Form::Mail, address: all }) if address.parse::<lettre::Address>().is_ok() => {
                    all.push_str(&format!(",{address}"));
                }
                _ => targets.push(Target::parse(address)?),
            }
        }
        let bytes: [u8; 16] = rand::random();
        Ok(Self { targets: Arc::new(targets), when, started: None, id: uuid(bytes), failures: Failures::default() })
    }

    /// Hands out each failure of the start as soon as it is known.
    pub(crate) fn with_failures(mut self, failures: Failures) -> Self {
        self.failures = failures;
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Tells of the start, without keeping the command waiting.
    pub(crate) fn start(&mut self, mut start: Notification) {
        if self.is_empty() {
            return;
        }
        start.id.clone_from(&self.id);
        let (targets, when, failures) = (Arc::clone(&self.targets), self.when, Arc::clone(&self.failures));
        self.started = Some(tokio::spawn(async move { tell(&targets, when, &start, BOUND, &failures).await }));
    }

    /// Tells of the end. Returns how all notifications went, that of the start included.
    pub(crate) async fn end(mut self, mut end: Notification, kind: Option<Kind>) -> Vec<Delivery> {
        if self.is_empty() {
            return Vec::new();
        }
        let bound = if matches!(kind, Some(Kind::Interrupted | Kind::Terminated)) { BRIEF } else { BOUND };
        end.id.clone_from(&self.id);
        let mut deliveries = Vec::new();
        if let Some(mut started) = self.started.take() {
            // In their order: a start that arrives behind the end would look like a command that never ended.
            match tokio::time::timeout(bound, &mut started).await {
                Ok(told) => deliveries.extend(told.unwrap_or_default()),
                Err(_elapsed) => started.abort(),
            }
        }
        deliveries.extend(tell(&self.targets, self.when, &end, bound, &self.failures).await);
        for failed in deliveries.iter().filter(|delivery| !delivery.ok) {
            let why = failed.error.as_deref().unwrap_or_default();
            tracing::warn!("{} was not told of {}: {why}", failed.target, failed.event.as_str());
        }
        deliveries
    }
}

async fn tell(
    targets: &[Target],
    when: When,
    notification: &Notification,
    bound: Duration,
    failures: &Failures,
) -> Vec<Delivery> {
    let sender = Sender::new();
    let tell = |target: &Target| {
        let request = message::request(target, when, notification);
        let (sender, target, event) = (&sender, target.to_string(), notification.event);
        async move {
            let sent = match request {
                None => return None,
                Some(Request::Http(request)) => tokio::time::timeout(bound, sender.http(&request)).await,
                Some(Request::Mail(mail)) => tokio::time::timeout(bound, mail::send(&mail)).await,
            };
            let error = match sent {
                Ok(sent) => sent.err(),
                Err(_elapsed) => Some(format!("no answer within {}", humantime::format_duration(bound))),
            };
            if let (Some(error), Ok(mut failures)) = (&error, failures.lock()) {
                let (target, event, error) = (target.clone(), event.as_str().to_owned(), error.clone());
                failures.push(NotNotified { target, event, error });
            }
            Some(Delivery { target, event, ok: error.is_none(), error })
        }
    };
    join_all(targets.iter().map(tell)).await.into_iter().flatten().collect()
}

/// A random UUID (version 4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let hex = crate::seal::hash::hex(&bytes);
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}
