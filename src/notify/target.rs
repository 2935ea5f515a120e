//! The receiver of a notification. The host of a well-known service says what form it takes; `slack+https://...` and its siblings
//! say it for a server of one's own. An address is a secret: whoever has it can write there.

use crate::error::{Error, Result};

/// The form that a receiver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Pings as healthchecks.io takes them: `/start`, the address itself, `/fail`.
    Healthchecks,
    /// A [`crate::notify::event::Notification`] as JSON.
    Webhook,
    Slack,
    Discord,
    Mail,
}

/// The events that chats and mails get; a webhook and a healthcheck get all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum When {
    #[default]
    Problems,
    All,
}

/// A receiver.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) form: Form,
    /// A URL; of a mail, the addresses.
    pub(crate) address: String,
}

const PREFIXES: [(&str, Form); 4] = [
    ("healthchecks+", Form::Healthchecks),
    ("webhook+", Form::Webhook),
    ("slack+", Form::Slack),
    ("discord+", Form::Discord),
];

impl Target {
    /// Reads an address. It is never quoted in an error.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::usage(format!("--notify: {what}")).hint(
                "write https://hc-ping.com/..., https://hooks.slack.com/..., https://host/path for JSON, or \
                 mailto:somebody@example.com; healthchecks+https://..., slack+https://... and discord+https://... name the \
                 form of a server of your own",
            )
        };
        if let Some(addresses) = text.strip_prefix("mailto:") {
            let fit = addresses.split(',').all(|one| one.trim().parse::<lettre::Address>().is_ok());
            let mail = Self { form: Form::Mail, address: addresses.to_owned() };
            return if fit { Ok(mail) } else { Err(wrong("mailto: is followed by no address")) };
        }
        let given = PREFIXES.into_iter().find_map(|(prefix, form)| Some((form, text.strip_prefix(prefix)?)));
        let url = given.map_or(text, |(_, url)| url);
        let host = host(url).ok_or_else(|| wrong("an address begins with https://, http:// or mailto:"))?;
        let known = match host.split(':').next().unwrap_or_default() {
            "hc-ping.com" => Form::Healthchecks,
            "hooks.slack.com" => Form::Slack,
            "discord.com" | "discordapp.com" => Form::Discord,
            _ => Form::Webhook,
        };
        if url.parse::<hyper::Uri>().is_err() {
            return Err(wrong("an address is no URL"));
        }
        Ok(Self { form: given.map_or(known, |(form, _)| form), address: url.to_owned() })
    }
}

/// Host and port of a URL; a user before it is not shown.
fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?', '#']).next()?.rsplit('@').next()?;
    (!host.is_empty()).then_some(host)
}

/// The kind of the receiver and its host.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.form {
            Form::Healthchecks => "healthchecks",
            Form::Webhook => "webhook",
            Form::Slack => "Slack",
            Form::Discord => "Discord",
            Form::Mail => return write!(f, "mail to {}", self.address),
        };
        write!(f, "{kind} at {}", host(&self.address).unwrap_or_default())
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
