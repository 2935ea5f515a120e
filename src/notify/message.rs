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

/// The request for a receiver; `None` where it takes no such event.
pub(crate) fn request(target: &Target, when: When, notification: &Notification) -> Option<Request> {
    let wanted = match target.form {
        Form::Healthchecks | Form::Webhook => true,
        Form::Slack | Form::Discord | Form::Mail => {
            notification.event.is_problem() || (when == When::All && notification.event == Event::Success)
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
        Form::Healthchecks => Request::Http(ping(target, notification)),
        Form::Webhook => Request::Http(webhook(target, notification)),
        Form::Slack => json(serde_json::json!({ "text": chat(notification) })),
        Form::Discord => json(serde_json::json!({
            "content": chat(notification),
            // A name in a message of a server's must call nobody.
            "allowed_mentions": { "parse": [] },
        })),
        Form::Mail => Request::Mail(Mail {
            to: target.address.clone(),
            subject: headline(notification),
            text: text(notification),
        }),
    })
}

fn ping(target: &Target, notification: &Notification) -> HttpRequest {
    let (base, query) =
        target.address.split_once('?').map_or((target.address.as_str(), ""), |(base, query)| (base, query));
    let path = match notification.event {
        Event::Start => "/start",
        Event::Success => "",
        _ => "/fail",
    };
    let sign = if query.is_empty() { "" } else { "&" };
    let url = format!("{}{path}?{query}{sign}rid={}", base.trim_end_matches('/'), notification.id);
    let text = text(notification);
    let from = text.ceil_char_boundary(text.len().saturating_sub(PING));
    let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
    HttpRequest { url, headers, body: text.get(from..).unwrap_or_default().to_owned() }
}

fn webhook(target: &Target, notification: &Notification) -> HttpRequest {
    let body = serde_json::to_string(notification).unwrap_or_default();
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("x-pgstow-event", notification.event.as_str().to_owned()),
    ];
    if let Some(secret) = std::env::var(SECRET).ok().filter(|secret| !secret.is_empty())
        && let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
    {
        mac.update(body.as_bytes());
        headers.push(("x-pgstow-signature", format!("sha256={}", hex(&mac.finalize().into_bytes()))));
    }
    HttpRequest { url: target.address.clone(), headers, body }
}

/// `pgstow backup FAILED: billing`
fn headline(notification: &Notification) -> String {
    let how = match notification.event {
        Event::Start => "begins",
        Event::Success => "ok",
        Event::Partial => "PARTIAL",
        Event::Anomaly => "ANOMALY",
        Event::LatestNotMoved => "latest did not move",
        Event::Failure => "FAILED",
        Event::Damage => "DAMAGE FOUND",
        Event::Interrupted => "interrupted",
    };
    let name = notification.name.as_ref().map(|name| format!(": {name}")).unwrap_or_default();
    format!("pgstow {} {how}{name}", notification.command).replace(['\n', '\r'], " ")
}

fn chat(notification: &Notification) -> String {
    let mut text = format!("{}\n{}", headline(notification), notification.message);
    for hint in &notification.hints {
        let written = write!(text, "\n→ {hint}");
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    for (what, value) in [("store", &notification.store), ("run", &notification.run), ("machine", &notification.host)] {
        if let Some(value) = value {
            text.push_str(&format!("\n{what} {value}"));
        }
    }
    let end = text.floor_char_boundary(CHAT);
    text.truncate(end);
    text
}

fn text(notification: &Notification) -> String {
    let mut text = format!("{}\n\n{}\n", headline(notification), notification.message);
    for hint in &notification.hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    let seconds = notification.seconds.map(|seconds| format!("{seconds:.1}"));
    let code = notification.exit_code.map(|code| code.to_string());
    for (what, value) in [
        ("run", &notification.run),
        ("store", &notification.store),
        ("machine", &notification.host),
        ("exit code", &code),
        ("seconds", &seconds),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("{what}: {value}\n"));
        }
    }
    if !notification.log.is_empty() {
        text.push_str(&format!("\n{}\n", notification.log.join("\n")));
    }
    text
}
