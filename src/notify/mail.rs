//! Delivers by mail: to the SMTP server of `PGSTOW_SMTP_URL`, else by the machine's `sendmail`.

use std::process::Stdio;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use tokio::io::AsyncWriteExt as _;

/// `smtps://user:password@host`, or `smtp://host:587?tls=required`.
pub(crate) const SMTP: &str = "PGSTOW_SMTP_URL";
/// The sender's address.
pub(crate) const FROM: &str = "PGSTOW_MAIL_FROM";
/// Places of `sendmail`, PATH first.
const SENDMAIL: [&str; 3] = ["sendmail", "/usr/sbin/sendmail", "/usr/lib/sendmail"];

/// A mail.
#[derive(Debug)]
pub(crate) struct Mail {
    /// Addresses, with commas between.
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) text: String,
}

/// Sends a mail.
///
/// # Errors
/// The failure in words; never the SMTP address, which may hold a password.
pub(crate) async fn send(mail: &Mail) -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    let from = variable(FROM).unwrap_or_else(|| format!("pgstow@{host}"));
    let from: Mailbox = from.parse().map_err(|error| format!("{FROM}: {error}"))?;
    let mut builder = Message::builder().from(from).subject(&mail.subject).header(ContentType::TEXT_PLAIN);
    for to in mail.to.split(',') {
        builder = builder.to(to.trim().parse().map_err(|error| format!("an address of the mail: {error}"))?);
    }
    let message = builder.body(mail.text.clone()).map_err(|error| format!("write the mail: {error}"))?;
    match variable(SMTP) {
        Some(url) => {
            let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url)
                .map_err(|_quotes_the_address| format!("{SMTP} is no address of an SMTP server"))?;
            transport.build().send(message).await.map_err(|error| error.to_string())?;
            Ok(())
        }
        None => sendmail(&message.formatted()).await,
    }
}

async fn sendmail(message: &[u8]) -> Result<(), String> {
    let start = |program: &str| {
        let mut command = tokio::process::Command::new(program);
        command.args(["-t", "-i"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn()
    };
    let Some(mut child) = SENDMAIL.iter().find_map(|program| start(program).ok()) else {
        return Err(format!("there is no sendmail on this machine, and {SMTP} is not set"));
    };
    if let Some(mut input) = child.stdin.take() {
        input.write_all(message).await.map_err(|error| format!("write to sendmail: {error}"))?;
    }
    let ended = child.wait_with_output().await.map_err(|error| format!("wait for sendmail: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().replace('\n', " ");
    Err(format!("sendmail ended with {}: {said}", ended.status))
}
