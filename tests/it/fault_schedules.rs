//! Faults at random: each schedule breaks one run of the program in one to three ways, at moments that its seed says, on
//! both sides: the database's and the store's. The property: the run completes with the objects of a run without
//! faults, or it fails cleanly (see `support::fixture`). Never a third thing.
//!
//! `PGSTOW_TEST_SEED=17` runs that schedule alone and tells what happened.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::fixture::{Ended, Fixture, Kept, judged, kept};
use crate::support::objects::Prints;
use crate::support::pg::{self, Cluster};
use crate::support::pg_proxy::{self, Event, PgProxy, Session};
use crate::support::program::{Going, backup, expect_code};
use crate::support::proxy::{self, Asked, Proxy};
use crate::support::tally::{self, Outcome};

const SCHEDULES: u32 = 230;
/// More runs at once than cores: most of a broken run is waiting.
const AT_ONCE: usize = 6;
/// A run takes half a second, and some seconds more where it waits for what does not come back.
const PATIENCE: Duration = Duration::from_secs(90);

/// One way to break a run. The text is its name in reports.
pub(crate) const KINDS: [&str; 23] = [
    "store: reset",
    "store: 503 SlowDown",
    "store: 500 InternalError",
    "store: 429 throttled",
    "store: stall within a request",
    "store: stall before the answer",
    "store: answer lost",
    "store: answer cut",
    "store: 200 with an error inside",
    "store: wrong ETag",
    "store: credentials expire",
    "store: clock skew",
    "store: gone for good",
    "reader: reset",
    "reader: closed",
    "reader: cut within a message",
    "reader: cannot connect",
    "reader: stalled",
    "leader: lost",
    "pg_dump, pg_dumpall: lost",
    "latency",
    "signal",
    "disk full",
];

/// Three chunks of a large table, of some seven megabytes of text; small tables; large objects.
const DATA: &str = "
CREATE SCHEMA other; CREATE TABLE other.t (id serial PRIMARY KEY, t text); INSERT INTO other.t (t) SELECT md5(i::text) FROM generate_series(1, 300) i;
CREATE TABLE a (id int); INSERT INTO a VALUES (1); CREATE TABLE b (id int PRIMARY KEY); CREATE VIEW v AS TABLE a;
CREATE UNLOGGED TABLE large (id int, t text) WITH (fillfactor = 10, autovacuum_enabled = off);
ALTER TABLE large ALTER COLUMN t SET STORAGE PLAIN;
INSERT INTO large SELECT i, repeat(md5(i::text), 34) FROM generate_series(1, 6200) i;
SELECT lo_from_bytea(0, convert_to(repeat('large object ', i * 1000), 'UTF8')) FROM generate_series(1, 5) i";

/// Numbers that a seed determines (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.roll(many) == 0
    }
}

/// What a schedule's faults did so far; shared by the scripts of its proxies.
#[derive(Clone, Default)]
struct Hits {
    kinds: Arc<Mutex<Vec<&'static str>>>,
    pid: Arc<AtomicI32>,
}

impl Hits {
    fn note(&self, kind: &'static str) {
        self.kinds.lock().unwrap().push(kind);
    }

    /// Sends the program a signal, if it runs.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid.load(Ordering::SeqCst)) {
            // It may have just ended.
            if kill_process(pid, signal).is_ok() {
                self.note("signal");
            }
        }
    }
}

type S3Script = Box<dyn FnMut(&Asked) -> Option<proxy::Fault> + Send>;
type PgScript = Box<dyn FnMut(&Session, Event<'_>) -> Option<pg_proxy::Fault> + Send>;

/// The faults of one run.
struct Schedule {
    seed: u32,
    kinds: Vec<&'static str>,
    s3: Vec<S3Script>,
    pg: Vec<PgScript>,
    /// Bytes that are free on the disk of a directory store; such a store is used where this is set.
    disk: Option<u64>,
    hits: Hits,
}

impl Schedule {
    /// Each kind of fault is the first of every 23rd schedule.
    fn new(seed: u32) -> Self {
        let mut dice = Dice(u64::from(seed));
        let mut kinds = vec![KINDS[seed as usize % KINDS.len()]];
        while dice.one_in(3) && kinds.len() < 3 {
            kinds.push(KINDS[usize::try_from(dice.roll(KINDS.len() as u64 - 1)).unwrap()]);
        }
        let mut schedule =
            Self { seed, kinds: kinds.clone(), s3: Vec::new(), pg: Vec::new(), disk: None, hits: Hits::default() };
        for kind in kinds {
            schedule.add(kind, &mut dice);
        }
        schedule
    }

    fn add(&mut self, kind: &'static str, dice: &mut Dice) {
        let hits = self.hits.clone();
        match kind.split_once(": ") {
            Some(("store", fault)) => self.s3.push(store_fault(kind, fault, hits, dice)),
            Some((who, fault)) => self.pg.push(database_fault(kind, who, fault, hits, dice)),
            None if kind == "latency" => {
                let (latency, of) = (Duration::from_millis(1 + dice.roll(8)), dice.roll(9));
                self.pg.push(Box::new(move |session, event| {
                    let slow = event == Event::Begins && (of == 0 || session.number as u64 == of);
                    slow.then(|| {
                        hits.note(kind);
                        pg_proxy::Fault::Latency(latency)
                    })
                }));
            }
            None if kind == "signal" => self.add_signal(dice),
            None => self.disk = Some(dice.roll(16 << 20)),
        }
    }

    /// After so many requests to the store, or bytes of rows.
    fn add_signal(&mut self, dice: &mut Dice) {
        let (hits, signal) = (self.hits.clone(), [Signal::INT, Signal::TERM][usize::from(dice.one_in(2))]);
        if dice.one_in(2) {
            let at = 1 + usize::try_from(dice.roll(34)).unwrap();
            self.s3.push(Box::new(move |asked| {
                if asked.number == at {
                    hits.signal(signal);
                }
                None
            }));
        } else {
            let mut moment = Moment::new(dice);
            self.pg.push(Box::new(move |session, event| {
                if moment.has_come(session, event) {
                    hits.signal(signal);
                }
                None
            }));
        }
    }
}

type Fits = fn(&Asked) -> bool;

/// Breaks one to three requests in a row from a random one on, or all of them.
fn store_fault(kind: &'static str, fault: &str, hits: Hits, dice: &mut Dice) -> S3Script {
    use proxy::Fault;
    let from = 1 + usize::try_from(dice.roll(30)).unwrap();
    let (mut left, bytes) = (1 + dice.roll(3), dice.roll(200_000));
    // What only some requests can meet waits for the first one of those from `from` on.
    let all: Fits = |_| true;
    let (fault, fits): (Fault, Fits) = match fault {
        "reset" => (Fault::Reset(bytes), all),
        "503 SlowDown" => (Fault::Answer(503, "SlowDown"), all),
        "500 InternalError" => (Fault::Answer(500, "InternalError"), all),
        "429 throttled" => (Fault::Answer(429, "TooManyRequests"), all),
        // The end of an upload may take a server long: there a stall is waited for 20 times as long.
        "stall within a request" => (Fault::Stall(bytes), |asked| !asked.completes()),
        "stall before the answer" => (Fault::StallAnswer(0), |asked| !asked.completes()),
        "answer lost" => (Fault::LoseAnswer, all),
        "answer cut" => (Fault::CutAnswer(bytes % 400), all),
        "200 with an error inside" => (Fault::Answer(200, "InternalError"), Asked::completes),
        "wrong ETag" => (Fault::WrongEtag, Asked::sends_part),
        "credentials expire" => (Fault::Answer(403, "ExpiredToken"), all),
        "clock skew" => (Fault::Answer(403, "RequestTimeTooSkewed"), all),
        _ => (Fault::Reset(0), all),
    };
    match kind {
        "store: credentials expire" | "store: gone for good" => left = u64::MAX,
        _ if fault == Fault::StallAnswer(0) || matches!(fault, Fault::Stall(_)) => left = 1,
        "store: clock skew" if dice.one_in(2) => left = u64::MAX,
        "store: 200 with an error inside" | "store: wrong ETag" => {
            return Box::new(move |asked| {
                let hit = left > 0 && fits(asked);
                hit.then(|| {
                    left -= 1;
                    hits.note(kind);
                    fault
                })
            });
        }
        _ => {}
    }
    Box::new(move |asked| {
        let hit = left > 0 && asked.number >= from && fits(asked);
        hit.then(|| {
            left -= 1;
            hits.note(kind);
            fault
        })
    })
}

/// A moment in the talk with the database.
struct Moment {
    /// Bytes of rows of the large table, over all readers; or statements of all sessions.
    bytes: Option<u64>,
    statements: u64,
    seen: BTreeMap<(usize, String), u64>,
    come: bool,
}

impl Moment {
    fn new(dice: &mut Dice) -> Self {
        let bytes = (!dice.one_in(3)).then(|| dice.roll(7_000_000));
        Self { bytes, statements: 1 + dice.roll(40), seen: BTreeMap::new(), come: false }
    }

    /// True once.
    fn has_come(&mut self, session: &Session, event: Event<'_>) -> bool {
        let come = match (event, self.bytes) {
            (Event::Rows(sql, now), Some(bytes)) if sql.contains("large") => {
                self.seen.insert((session.number, sql.to_owned()), now);
                self.seen.values().sum::<u64>() > bytes
            }
            (Event::Asks(_), None) => {
                self.statements = self.statements.saturating_sub(1);
                self.statements == 0
            }
            _ => false,
        };
        come && !std::mem::replace(&mut self.come, true)
    }
}

fn database_fault(kind: &'static str, who: &str, fault: &str, hits: Hits, dice: &mut Dice) -> PgScript {
    use pg_proxy::Fault;
    let nth = 1 + dice.roll(match who {
        "leader" => 25,
        "reader" => 12,
        _ => 50,
    });
    if who == "reader" && fault == "cannot connect" {
        // From one connection on, some of the next ones.
        let (from, mut left) = (1 + dice.roll(6), 1 + dice.roll(5));
        return Box::new(move |session, event| {
            let hit = event == Event::Begins
                && session.application == "pgstow reader"
                && session.time as u64 >= from
                && left > 0;
            hit.then(|| {
                left -= 1;
                hits.note(kind);
                Fault::Reset
            })
        });
    }
    if who == "leader" && dice.one_in(2) {
        let mut moment = Moment::new(dice);
        return Box::new(move |session, event| {
            moment.has_come(session, event).then(|| {
                hits.note(kind);
                Fault::ResetOf("pgstow leader")
            })
        });
    }
    let application = match who {
        "leader" => "pgstow leader",
        "reader" => "pgstow reader",
        _ => "pgstow pg_dump",
    };
    let fault = match fault {
        "closed" => Fault::Close,
        "cut within a message" => Fault::ResetAfter(dice.roll(50_000)),
        "stalled" => Fault::Stall,
        _ => [Fault::Reset, Fault::Close, Fault::ResetAfter(dice.roll(2000))][usize::try_from(dice.roll(3)).unwrap()],
    };
    // Readers: one to three cuts within their rows; others at one of their statements.
    let mut left = if who == "reader" && fault != Fault::Stall { 1 + dice.roll(3) } else { 1 };
    let (rows, every) = (who == "reader" && !dice.one_in(4), 100_000 + dice.roll(2_000_000));
    let (mut statements, mut next) = (0, every);
    Box::new(move |session, event| {
        if !session.application.starts_with(application) || left == 0 {
            return None;
        }
        let hit = match event {
            Event::Rows(_, bytes) if rows => bytes >= next,
            Event::Asks(_) if !rows => {
                statements += 1;
                statements >= nth
            }
            _ => false,
        };
        hit.then(|| {
            next = 100_000 + (next * 7) % 2_000_000;
            left -= 1;
            hits.note(kind);
            fault
        })
    })
}

/// What all schedules share.
struct Ground {
    fixture: Fixture,
    cluster: &'static Cluster,
    calm: Prints,
    /// A directory store with one run.
    folder: TempDir,
    calm_in_folder: Prints,
}

const DATABASE: &str = "fault schedules";

impl Ground {
    fn new() -> Self {
        let cluster = pg::shared(*pg::versions().last().unwrap());
        cluster.create_database(DATABASE);
        cluster.psql(DATABASE, DATA);
        let fixture = Fixture::new(cluster, DATABASE);
        expect_code(&mut fixture.backup("calm"), 0);
        let calm = fixture.latest("calm").unwrap();
        expect_code(fixture.backup("kept").env("PGSTOW_COMPRESSION", "zstd"), 0);
        let folder = tempfile::tempdir().unwrap();
        expect_code(backup(cluster, DATABASE, folder.path()).env("PGSTOW_COMPRESSION", "none"), 0);
        let calm_in_folder = crate::support::fixture::latest(folder.path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        expect_code(&mut backup(cluster, DATABASE, folder.path()), 0);
        assert!(calm.len() > 8 && calm_in_folder.len() == calm.len(), "{calm:?}");
        Self { fixture, cluster, calm, folder, calm_in_folder }
    }

    /// Runs one schedule: how it ended, and the faults that hit.
    fn run(&self, fixture: &Fixture, mut schedule: Schedule) -> (Result<Outcome, String>, Vec<&'static str>, Ended) {
        let mut scripts = std::mem::take(&mut schedule.pg);
        let pg = fixture.bucket.runtime.block_on(PgProxy::start(self.cluster, move |session, event| {
            // Each is asked, so that each can count.
            let faults: Vec<pg_proxy::Fault> = scripts.iter_mut().filter_map(|script| script(session, event)).collect();
            faults.first().copied()
        }));
        let mut scripts = std::mem::take(&mut schedule.s3);
        let s3 = fixture.bucket.runtime.block_on(Proxy::start(fixture.bucket.server.port, move |asked| {
            let faults: Vec<proxy::Fault> = scripts.iter_mut().filter_map(|script| script(asked)).collect();
            faults.first().copied()
        }));
        let (outcome, ended) = match schedule.disk {
            Some(free) => self.run_on_a_small_disk(free, &schedule, &pg),
            None => self.run_into_the_bucket(fixture, &schedule, &pg, &s3),
        };
        let hits = std::mem::take(&mut *schedule.hits.kinds.lock().unwrap());
        (outcome, hits, ended)
    }

    fn run_into_the_bucket(
        &self,
        fixture: &Fixture,
        schedule: &Schedule,
        pg: &PgProxy,
        s3: &Proxy,
    ) -> (Result<Outcome, String>, Ended) {
        let prefix = format!("seed{}", schedule.seed);
        fixture.adopt(&self.fixture, "kept", &prefix);
        let before: Kept = fixture.kept(&prefix);
        let mut command = fixture.backup(&prefix);
        command.env("PGSTOW_STALL_TIMEOUT", "2s").env("AWS_ENDPOINT_URL_S3", &s3.endpoint).args([
            "--s3-attempts",
            "3",
            "--s3-stall-timeout",
            "2s",
        ]);
        let ended = watched(command.env("DATABASE_URL", pg.url(&fixture.url())), schedule);
        let outcome = fixture.judge(&prefix, &before, &self.calm, &ended);
        fixture.forget(&prefix);
        (outcome, ended)
    }

    /// The store is on a file system of its own with so many bytes free, in a namespace of its own; what is left of the
    /// store is copied from it.
    fn run_on_a_small_disk(&self, free: u64, schedule: &Schedule, pg: &PgProxy) -> (Result<Outcome, String>, Ended) {
        let script = r#"
            set -eu
            mount -t tmpfs -o size="$2" pgstow "$1"
            cp -r "$3" "$1/store"
            to=$1; left=$4; shift 4
            code=0; "$@" --store "$to/store" || code=$?
            cp -r "$to/store" "$left"
            exit $code
        "#;
        let (mount, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let used: u64 = 4 * 4096 + folder_bytes(self.folder.path());
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", script, "sh"]).arg(mount.path()).arg((used + free).to_string());
        command.arg(self.folder.path()).arg(left.path().join("store")).arg(env!("CARGO_BIN_EXE_pgstow"));
        command.args(["backup", "--pg-bin-dir"]).arg(self.cluster.bin_dir());
        command
            .env("DATABASE_URL", pg.url(&self.fixture.url()))
            .env("PGSTOW_COMPRESSION", "none")
            .env("PGSTOW_PROGRESS", "never")
            .env("PGSTOW_STALL_TIMEOUT", "2s");
        let ended = watched(&mut command, schedule);
        if ended.err.to_lowercase().contains("no space left") {
            schedule.hits.note("disk full");
        }
        (judged(&left.path().join("store"), &kept(self.folder.path()), &self.calm_in_folder, &ended), ended)
    }
}

/// Bytes of a folder's files in whole pages of memory, and a page for each folder and file.
fn folder_bytes(folder: &Path) -> u64 {
    let files = crate::support::program::files(folder);
    let pages = files.iter().map(|file| 2 + std::fs::metadata(folder.join(file)).unwrap().len().div_ceil(4096));
    pages.sum::<u64>() * 4096
}

/// Runs it to its end; one that never ends is killed, which nobody takes for a clean failure.
fn watched(command: &mut Command, schedule: &Schedule) -> Ended {
    let begun = Instant::now();
    let mut going = Going::start(command);
    let pid = i32::try_from(going.pid()).unwrap();
    // A small disk's program is the child of a shell, which is not to be interrupted.
    schedule.hits.pid.store(if schedule.disk.is_some() { 0 } else { pid }, Ordering::SeqCst);
    while going.runs() {
        if begun.elapsed() > PATIENCE {
            going.signal("KILL");
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    schedule.hits.pid.store(0, Ordering::SeqCst);
    going.end()
}

#[test]
pub(crate) fn whatever_breaks_a_run_completes_or_fails_cleanly() {
    let ground = Ground::new();
    let only: Option<u32> = std::env::var("PGSTOW_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let (first, last) = only.map_or((0, SCHEDULES), |seed| (seed, seed + 1));
    let next = AtomicU32::new(first);
    let [survived, failed, missed] = [const { AtomicUsize::new(0) }; 3];
    let lost = Mutex::new(Vec::new());
    let injected: Mutex<BTreeMap<&'static str, usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                // A server of its own: what is cleared away after one run is not in the way of another.
                let fixture = Fixture::new(ground.cluster, DATABASE);
                while let Some(seed) = Some(next.fetch_add(1, Ordering::SeqCst)).filter(|seed| *seed < last) {
                    let schedule = Schedule::new(seed);
                    let kinds = schedule.kinds.clone();
                    let begun = Instant::now();
                    let (outcome, hits, ended) = ground.run(&fixture, schedule);
                    if only.is_some() {
                        println!(
                            "seed {seed}: {kinds:?}: {outcome:?} in {:?}, hit by {hits:?}\n{ended:?}",
                            begun.elapsed()
                        );
                    }
                    for kind in &hits {
                        *injected.lock().unwrap().entry(*kind).or_default() += 1;
                        tally::injected(kind, 1);
                    }
                    let outcome = outcome.unwrap_or_else(|why| {
                        lost.lock().unwrap().push(format!("seed {seed}: {kinds:?}: {why}; hit by {hits:?}\n{ended:?}"));
                        Outcome::Lost
                    });
                    if hits.is_empty() && outcome == Outcome::Survived {
                        missed.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    tally::ended(outcome, "a random schedule");
                    match outcome {
                        Outcome::Survived => survived.fetch_add(1, Ordering::SeqCst),
                        Outcome::Failed if hits.is_empty() => {
                            lost.lock()
                                .unwrap()
                                .push(format!("seed {seed}: {kinds:?}: failed without a fault\n{ended:?}"));
                            0
                        }
                        Outcome::Failed => failed.fetch_add(1, Ordering::SeqCst),
                        Outcome::Lost => 0,
                    };
                }
            });
        }
    });
    let (injected, lost) = (injected.into_inner().unwrap(), lost.into_inner().unwrap());
    let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
    println!(
        "faults: injected {}, survived {}, cleanly failed {}, lost {} ({} schedules of {} were over before their moment)",
        injected.values().sum::<usize>(),
        count(&survived),
        count(&failed),
        lost.len(),
        count(&missed),
        last - first,
    );
    assert!(lost.is_empty(), "PGSTOW_TEST_SEED runs one of these alone:\n{}", lost.join("\n"));
    if only.is_none() {
        let unmet: Vec<&&str> = KINDS.iter().filter(|kind| !injected.contains_key(*kind)).collect();
        assert!(unmet.is_empty(), "never hit: {unmet:?}");
        assert!(count(&survived) > 50 && count(&failed) > 50 && count(&missed) < 20, "the schedules are one-sided");
    }
    ground.cluster.drop_database(DATABASE);
}
