//! The form that each receiver takes.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::notify::event::{Event, Notification};
use crate::notify::mail::Mail;
use crate::notify::target::{Form, Target, When};
use crate::seal::hash::hex;

/// Holds the secret that webhooks are signed with.
pub(crate) const SECRET: &str = "PGSTOW_NOTIFY_SECRET";
/// Bytes of a log that a ping takes (healthchecks.io: 100 kB).
const PING: usize = 90_000;
/// Characters that a chat takes (Discord: 2000).
const CHAT: usize = 1_800;

/// An HTTP request: always a POST.
#[derive(Debug)]
pub(crate) struct HttpRequest {
    pub(crate) url: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// A request of either kind.
#[derive(Debug)]
pub(crate) enum Request {
    Http(HttpRequest),
    Mail(Mail),
}

/// The request that tells a receiver; `None` where it is not told of such an event.
pub(crate) fn request(target: &Target, when: When, told: &Notification) -> Option<Request> {
    let wanted = match target.form {
        Form::Healthchecks | Form::Webhook => true,
        Form::Slack | Form::Discord | Form::Mail => {
            told.event.is_problem() || (when == When::All && told.event == Event::Success)
        }
    };
    if !wanted {
        return None;
    }
    let json = |body: serde_json::Value| {
        let headers = vec![("content-type", "application/json".to_owned())];
        Request::Http(HttpRequest { url: target.address.clone(), headers, body: body.to_string() })
    };
    Some(match target.form {
        Form::Healthchecks => Request::Http(ping(target, told)),
        Form::Webhook => Request::Http(webhook(target, told)),
        Form::Slack => json(serde_json::json!({ "text": chat(told) })),
        Form::Discord => json(serde_json::json!({
            "content": chat(told),
            // A name in a message of a server's must call nobody.
            "allowed_mentions": { "parse": [] },
        })),
        Form::Mail => Request::Mail(Mail { to: target.address.clone(), subject: headline(told), text: text(told) }),
    })
}

fn ping(target: &Target, told: &Notification) -> HttpRequest {
    let (base, query) =
        target.address.split_once('?').map_or((target.address.as_str(), ""), |(base, query)| (base, query));
    let path = match told.event {
        Event::Start => "/start",
        Event::Success => "",
        _ => "/fail",
    };
    let sign = if query.is_empty() { "" } else { "&" };
    let url = format!("{}{path}?{query}{sign}rid={}", base.trim_end_matches('/'), told.id);
    let text = text(told);
    let from = text.ceil_char_boundary(text.len().saturating_sub(PING));
    let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
    HttpRequest { url, headers, body: text.get(from..).unwrap_or_default().to_owned() }
}

fn webhook(target: &Target, told: &Notification) -> HttpRequest {
    let body = serde_json::to_string(told).unwrap_or_default();
    let mut headers =
        vec![("content-type", "application/json".to_owned()), ("x-pgstow-event", told.event.as_str().to_owned())];
    if let Some(secret) = std::env::var(SECRET).ok().filter(|secret| !secret.is_empty())
        && let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
    {
        mac.update(body.as_bytes());
        headers.push(("x-pgstow-signature", format!("sha256={}", hex(&mac.finalize().into_bytes()))));
    }
    HttpRequest { url: target.address.clone(), headers, body }
}

/// `pgstow backup FAILED: billing`
fn headline(told: &Notification) -> String {
    let how = match told.event {
        Event::Start => "begins",
        Event::Success => "ok",
        Event::Partial => "PARTIAL",
        Event::Anomaly => "ANOMALY",
        Event::LatestNotMoved => "latest did not move",
        Event::Failure => "FAILED",
        Event::Damage => "DAMAGE FOUND",
        Event::Interrupted => "interrupted",
    };
    let name = told.name.as_ref().map(|name| format!(": {name}")).unwrap_or_default();
    format!("pgstow {} {how}{name}", told.command).replace(['\n', '\r'], " ")
}

fn chat(told: &Notification) -> String {
    let mut text = format!("{}\n{}", headline(told), told.message);
    for hint in &told.hints {
        let written = write!(text, "\n→ {hint}");
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    for (what, value) in [("store", &told.store), ("run", &told.run), ("machine", &told.host)] {
        if let Some(value) = value {
            text.push_str(&format!("\n{what} {value}"));
        }
    }
    let end = text.floor_char_boundary(CHAT);
    text.truncate(end);
    text
}

fn text(told: &Notification) -> String {
    let mut text = format!("{}\n\n{}\n", headline(told), told.message);
    for hint in &told.hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    let seconds = told.seconds.map(|seconds| format!("{seconds:.1}"));
    let code = told.exit_code.map(|code| code.to_string());
    for (what, value) in [
        ("run", &told.run),
        ("store", &told.store),
        ("machine", &told.host),
        ("exit code", &code),
        ("seconds", &seconds),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("{what}: {value}\n"));
        }
    }
    if !told.log.is_empty() {
        text.push_str(&format!("\n{}\n", told.log.join("\n")));
    }
    text
}
