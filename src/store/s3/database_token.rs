//! Tokens of Amazon RDS and Aurora: a presigned request `rds-db:connect`, good as a password for 15 minutes. Here, since this
//! is the one room that knows the AWS crates; credentials are found as for the store, whose own keys do not count.

use std::time::{Duration, SystemTime};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::OnceCell;

use crate::error::{Error, Result};
use crate::store::s3::client;
use crate::store::s3::failure::causes;

/// Amazon takes a token for so long, and no longer.
const LIFE: Duration = Duration::from_mins(15);
/// The characters that a signed URL does not encode.
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Makes tokens with the credentials of the surroundings.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    surroundings: OnceCell<(SharedCredentialsProvider, Option<String>)>,
}

impl Tokens {
    /// A token for a role of a server, made now. The region is that of the server's name, else that of the surroundings.
    ///
    /// # Errors
    /// Kind `Failed` without credentials, `Usage` without a region.
    pub(crate) async fn make(&self, host: &str, port: u16, user: &str) -> Result<String> {
        let (provider, found) = self.surroundings.get_or_try_init(|| surroundings(host)).await?;
        let region = region_of(host).map(str::to_owned).or_else(|| found.clone()).ok_or_else(|| {
            Error::usage(format!("--rds-iam: the region of {host} is not known"))
                .hint("connect by the name that Amazon gives the server, or set AWS_REGION")
        })?;
        let credentials = provider.provide_credentials().await.map_err(|error| {
            Error::failed(format!("--rds-iam: find AWS credentials: {}", causes(&error)))
                .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the task a role")
        })?;
        token((host, port, user), &region, credentials, SystemTime::now())
    }
}

async fn surroundings(host: &str) -> Result<(SharedCredentialsProvider, Option<String>)> {
    client::refuse_half_a_key()?;
    // Without the question to Amazon's metadata service that the usual chain ends with: the server's name says the region.
    let regions = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(region_of(host).map(|region| Region::new(region.to_owned())));
    let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(client::http(None)?).region(regions);
    let shared = Box::pin(loader.load()).await;
    let provider = shared.credentials_provider().ok_or_else(|| Error::failed("--rds-iam: no AWS credentials found"))?;
    Ok((provider, shared.region().map(ToString::to_string)))
}

/// The region in `name.id.eu-central-1.rds.amazonaws.com`.
fn region_of(host: &str) -> Option<&str> {
    let name = host.trim_end_matches('.');
    let name = name.strip_suffix(".rds.amazonaws.com").or_else(|| name.strip_suffix(".rds.amazonaws.com.cn"))?;
    name.rsplit('.').next().filter(|region| region.contains('-'))
}

fn token(
    (host, port, user): (&str, u16, &str),
    region: &str,
    credentials: Credentials,
    now: SystemTime,
) -> Result<String> {
    let failed = |what: &dyn std::fmt::Display| Error::failed(format!("--rds-iam: sign a token: {what}"));
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFE);
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| failed(&error))?
        .into();
    let mut token = format!("{host}:{port}/?Action=connect&DBUser={}", utf8_percent_encode(user, &UNRESERVED));
    let url = format!("https://{token}");
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]));
    let signed = sign(request.map_err(|error| failed(&error))?, &parameters).map_err(|error| failed(&error))?;
    for (name, value) in signed.into_parts().0.params() {
        token.push_str(&format!("&{name}={}", utf8_percent_encode(value, &UNRESERVED)));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_botocore_makes() {
        // botocore 1.44 at that moment: `generate_db_auth_token('db.abc.eu-central-1.rds.amazonaws.com', 5432, ...)`.
        for (user, session, expected) in VECTORS {
            let at = SystemTime::UNIX_EPOCH + Duration::from_mins(29_928_150);
            let credentials =
                Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", session.map(str::to_owned), None, "t");
            let host = "db.abc.eu-central-1.rds.amazonaws.com";
            let made = token((host, 5432, user), region_of(host).unwrap(), credentials, at).unwrap();
            assert_eq!(parts(&made), parts(expected), "{user}");
        }
    }

    fn parts(token: &str) -> Vec<&str> {
        let (head, query) = token.split_once('?').unwrap();
        let mut parts: Vec<&str> = query.split('&').chain([head]).collect();
        parts.sort_unstable();
        parts
    }

    #[test]
    fn the_region_stands_in_the_name() {
        assert_eq!(region_of("db.abc.eu-central-1.rds.amazonaws.com"), Some("eu-central-1"));
        assert_eq!(region_of("c.cluster-abc.cn-north-1.rds.amazonaws.com.cn."), Some("cn-north-1"));
        assert!(["127.0.0.1", "db.example.com", "rds.amazonaws.com"].iter().all(|host| region_of(host).is_none()));
    }

    const VECTORS: [(&str, Option<&str>, &str); 3] = [
        (
            "backup",
            None,
            "db.abc.eu-central-1.rds.amazonaws.com:5432/?Action=connect&DBUser=backup&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261126%2Feu-central-1%2Frds-db%2Faws4_request&X-Amz-Date=20261126T103000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=d85b07b1457166dea7500188ab1443e95fa615b99866856b2aa7ef7cc90343ce",
        ),
        (
            "back up/ä+~",
            None,
            "db.abc.eu-central-1.rds.amazonaws.com:5432/?Action=connect&DBUser=back%20up%2F%C3%A4%2B~&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261126%2Feu-central-1%2Frds-db%2Faws4_request&X-Amz-Date=20261126T103000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=8645796b5827f7d90673ef7df70f3c56ab8f5f53fe858de3b05464a5e22ebe13",
        ),
        (
            "backup",
            Some("FwoGZXIvYXdzEXAMPLE//+="),
            "db.abc.eu-central-1.rds.amazonaws.com:5432/?Action=connect&DBUser=backup&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261126%2Feu-central-1%2Frds-db%2Faws4_request&X-Amz-Date=20261126T103000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=FwoGZXIvYXdzEXAMPLE%2F%2F%2B%3D&X-Amz-Signature=0fc6cbbc5ac4c2c0db9db888edb52d9e5659afa480a16da01adad44d45ae19df",
        ),
    ];
}
