//! The endpoint that the profile in use names for S3 alone, in a `services` section of the AWS configuration file:
//!
//! ```text
//! [profile backup]
//! services = own
//! [services own]
//! s3 =
//!   endpoint_url = https://s3.example.com
//! ```
//!
//! The SDK reads it for clients that it makes from its own configuration; here the endpoint has to be known before, as
//! addressing and region depend on it.

use std::path::PathBuf;

/// The endpoint of the profile's `services` section, where there is one.
pub(super) fn endpoint() -> Option<String> {
    let ignored =
        std::env::var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let file = std::env::var_os("AWS_CONFIG_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let file = file.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".aws/config")))?;
    let text = std::fs::read_to_string(file).ok().filter(|_| !ignored)?;
    let profile = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    of(&text, profile.as_deref().unwrap_or("default"))
}

fn of(text: &str, profile: &str) -> Option<String> {
    let is_profile = |section: &str| match section.strip_prefix("profile ") {
        Some(name) => name.trim() == profile,
        None => profile == "default" && section == "default",
    };
    let services =
        lines(text).find(|line| is_profile(line.section) && line.below.is_none() && line.key == "services")?;
    let is_services =
        |section: &str| section.strip_prefix("services ").is_some_and(|name| name.trim() == services.value);
    let endpoint =
        |line: &Line<'_>| is_services(line.section) && line.below == Some("s3") && line.key == "endpoint_url";
    lines(text).find(endpoint).map(|line| line.value.to_owned()).filter(|url| !url.is_empty())
}

/// A line `key = value`, with the section and, where it is indented, the key that it belongs to.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    section: &'a str,
    below: Option<&'a str>,
    key: &'a str,
    value: &'a str,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let (mut section, mut parent) = ("", "");
    text.lines().filter_map(move |line| {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            return None;
        }
        if let Some(name) = plain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            (section, parent) = (name.0.trim(), "");
            return None;
        }
        let (key, value) = plain.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        if line.starts_with([' ', '\t']) {
            return Some(Line { section, below: Some(parent), key, value });
        }
        parent = key;
        Some(Line { section, below: None, key, value })
    })
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_profile_s_own_section_names_the_endpoint() {
        let text = "[default]\nregion = a\n[profile x]\nservices = own\n\n[services other]\ns3 =\n  endpoint_url = http://other\n\
                    [services own]\ndynamodb =\n  endpoint_url = http://wrong\ns3 =\n  # words\n  endpoint_url = http://right\n";
        assert_eq!(of(text, "x").as_deref(), Some("http://right"));
        assert_eq!(of(text, "default"), None);
        assert_eq!(
            of(&text.replace("[default]", "[default]\nservices = other"), "default").as_deref(),
            Some("http://other")
        );
    }
}
