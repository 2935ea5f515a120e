use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::environment::Environment;

/// Resolves with a made-up environment and no password file.
fn resolve(url: Option<&str>, variables: &[(&str, &str)]) -> crate::error::Result<ConnInfo> {
    let environment = Environment {
        variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    ConnInfo::resolve_with(url, &environment)
}

fn parts(url: &str) -> (String, u16, String, String, String) {
    let info = resolve(Some(url), &[]).unwrap();
    let password = info.password().map(|secret| secret.reveal().to_owned()).unwrap_or_default();
    (info.host().to_owned(), info.port(), info.user().to_owned(), password, info.database().to_owned())
}

fn expect(url: &str, host: &str, port: u16, user: &str, password: &str, database: &str) {
    let wanted = (host.to_owned(), port, user.to_owned(), password.to_owned(), database.to_owned());
    assert_eq!(parts(url), wanted, "{url}");
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    expect("postgres://u:p@h:5433/d", "h", 5433, "u", "p", "d");
    expect("postgresql://u:p@h/d", "h", 5432, "u", "p", "d");
    expect("  postgres://u:p%40%2F%3A%25%20x@h/d\n", "h", 5432, "u", "p@/:% x", "d");
    expect("postgres://u:a:b?c#d@h/d", "h", 5432, "u", "a:b?c#d", "d");
    expect("postgres://u:p@[::1]:6000/d", "::1", 6000, "u", "p", "d");
    expect("postgres://u:p@[fe80::1]/d", "fe80::1", 5432, "u", "p", "d");
    expect("postgres://u@%2Fvar%2Frun/d", "/var/run", 5432, "u", "", "d");
    expect("postgres:///d?host=/tmp&port=7&user=u&password=p", "/tmp", 7, "u", "p", "d");
    expect("postgres://u:p@h", "h", 5432, "u", "p", "u");
    expect("postgres://u:p@h/d%20e%C3%A9", "h", 5432, "u", "p", "d eé");
    expect(
        "postgres://postgres.ref:p@pooler.supabase.com:5432/postgres?pgbouncer=true&connection_limit=1",
        "pooler.supabase.com",
        5432,
        "postgres.ref",
        "p",
        "postgres",
    );
}

#[test]
fn words_are_read_as_libpq_reads_them() {
    expect("host=h port=1 user=u password=p dbname=d", "h", 1, "u", "p", "d");
    expect(r"host = h user = 'a b' password='it\'s \\ x' dbname=d\ e", "h", 5432, "a b", r"it's \ x", "d e");
    expect("host=h user=u dbname='' password=a=b&c@d", "h", 5432, "u", "a=b&c@d", "u");
}

#[test]
fn each_of_several_hosts_has_its_own_port() {
    let info = resolve(Some("postgres://u:p@a:1,b,[::1]:3/d"), &[]).unwrap();
    let all: Vec<String> = info.each_host().iter().map(ToString::to_string).collect();
    assert_eq!(all, ["u@a:1/d", "u@b:5432/d", "u@[::1]:3/d"]);
}

#[test]
fn malformed_strings_are_usage_errors_that_show_nothing_secret() {
    for url in [
        "postgres://u:sekret@x@h/d",
        "postgres://u:sek/ret@h/d",
        "postgres://u:1234/sekret@h/d",
        "postgres://u:sekret%zz@h/d",
        "postgres://u:sekret%@h/d",
        "postgres://u:sekret%00@h/d",
        "postgres://u:p@h:sekret/d",
        "postgres://u:p@h/d?sekret=1",
        "postgres://u:p@h/d?sekret",
        "postgres://u:p@h/d?sslmode=sekret",
        "postgres://u:p@[::1/sekret",
        "mysql://u:sekret@h/d",
        "u:sekret@h/d",
        "host=h password=two sekret",
        "host=h password='sekret",
        "host=h password=a sekret=1&x=2",
    ] {
        let error = resolve(Some(url), &[]).expect_err(url);
        assert_eq!(error.kind(), crate::error::Kind::Usage, "{url}");
        let shown = format!("{error} {error:?} {}", error.hints().join(" "));
        assert!(!shown.contains("sekret"), "{url}: {shown}");
    }
}

#[test]
fn a_password_shows_in_no_output_of_the_type() {
    let info = resolve(Some("postgres://u:sekret@h/d?sslpassword=sekret2"), &[]).unwrap();
    assert_eq!(info.password().unwrap().reveal(), "sekret");
    let shown = format!("{info} {info:?} {info:#?} {:?} {}", info.password(), info.password().unwrap());
    assert!(!shown.contains("sekret"), "{shown}");
}

#[test]
fn the_flag_wins_over_the_variables_and_these_over_the_single_settings() {
    let variables = [
        ("DATABASE_URL", "postgres://a@one/d"),
        ("SUPABASE_DB_URL", "postgres://b@two/d"),
        ("PGPASSWORD", "sekret"),
        ("PGHOST", "three"),
        ("PGSSLMODE", "require"),
    ];
    assert_eq!(resolve(Some("postgres://c@zero/d"), &variables).unwrap().host(), "zero");
    let info = resolve(None, &variables).unwrap();
    assert_eq!((info.host(), info.user(), info.get("sslmode")), ("one", "a", Some("require")));
    assert_eq!(info.password().unwrap().reveal(), "sekret");
    assert_eq!(resolve(None, &variables[1..]).unwrap().host(), "two");
    assert_eq!(resolve(None, &variables[2..]).unwrap().host(), "three");
    assert!(resolve(None, &[]).is_err());
}

#[test]
fn a_child_gets_everything_by_the_environment_and_nothing_left_over() {
    let info = resolve(Some("postgres://u:p@h:1/d?sslmode=verify-full&sslrootcert=system"), &[]).unwrap();
    let variables = info.with_database("e").child_env();
    let value = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(
        ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGGSSENCMODE"].map(value),
        [Some("h"), Some("1"), Some("u"), Some("p"), Some("e"), Some("verify-full"), Some("disable")]
    );
    assert!(ConnInfo::child_env_unset().any(|name| name == "PGSERVICE"));
    assert_eq!(value("PGSERVICE"), None);
}

#[test]
fn words_that_guard_a_connection_are_kept_or_refused() {
    for words in [
        "require_auth=scram-sha-256",
        "require_auth=!password",
        "gssencmode=require",
        "sslcertmode=require",
        "ssl_max_protocol_version=TLSv1.1",
        "ssl_min_protocol_version=TLSv2",
        "min_protocol_version=3.2",
        "target_session_attrs=primarily",
        "load_balance_hosts=yes",
        "replication=database",
    ] {
        let error = resolve(Some(&format!("host=h user=u {words}")), &[]).expect_err(words);
        assert_eq!(error.kind(), crate::error::Kind::Usage, "{words}");
    }
    assert!(resolve(Some("host=h user=u"), &[("PGREQUIREAUTH", "scram-sha-256")]).is_err());
    for words in [
        "require_auth=scram-sha-256 channel_binding=require",
        "gssencmode=prefer",
        "sslcertmode=disable",
        "target_session_attrs=prefer-standby",
        "ssl_min_protocol_version=TLSv1",
    ] {
        assert!(resolve(Some(&format!("host=h user=u {words}")), &[]).is_ok(), "{words}");
    }
}

#[test]
fn words_may_hold_what_looks_like_a_url() {
    let info = resolve(Some("host=h user=u password=a://b dbname='x://y'"), &[]).unwrap();
    assert_eq!((info.password().unwrap().reveal(), info.database()), ("a://b", "x://y"));
    assert!(resolve(Some("mysql://u:p@h/d?x=1"), &[]).is_err());
}
