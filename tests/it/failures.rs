//! What an operator and a customer see when the machine fails: nothing is lost, and words say what
//! to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use huida::base::clock::Clock;
use huida::channels::wechat_mp::simulate::SimulatedPush;
use huida::model::pull::installed_or_pull;
use huida::store::outbox::Outbox;
use huida::store::queue::Queue;
use huida::store::{AuditState, Store};

use crate::command::{Served, huida, json, output, store};
use crate::delivery::{FakeApi, Mishap, QUESTION, mini, sent_to, until};
use crate::support::{client, configuration, prepared, pushes, start_in};

/// Runs `command` with a limit of the shell; a file that would pass one of size cannot grow, as on a
/// full disk.
fn limited(command: &Command, limit: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' XFSZ; ulimit {limit} && exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    shell.current_dir(command.get_current_dir().unwrap());
    shell
}

fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// In the units of `ulimit -f` of a POSIX shell, 512 bytes.
fn blocks(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().len() / 512
}

/// `huida serve` with these accounts.
fn serving(dir: &Path, accounts: &str) -> Command {
    let mut command = huida(dir);
    std::fs::write(dir.join("huida.toml"), configuration(dir) + accounts).unwrap();
    command.arg("serve");
    command
}

/// The status that the platform sees; `None` without an answer.
fn status(url: &str, push: &SimulatedPush) -> Option<u16> {
    let url = format!("{url}/channels/wechat-mini/mini?{}", push.query.to_query_string());
    Some(client().post(url).body(push.body.clone()).send().ok()?.status().as_u16())
}

#[test]
fn an_import_without_room_takes_nothing_and_can_be_done_again() {
    let dir = prepared();
    let line = |n| format!("{{\"id\":\"bulk.{n}\",\"question\":\"批量问题{n}，说来话长\"}}\n");
    std::fs::write(dir.path().join("bulk.jsonl"), (0..2_000).map(line).collect::<String>())
        .unwrap();
    let before = store(dir.path()).entries().unwrap().len();
    let import = ["kb", "import", "bulk.jsonl"];
    let room = blocks(&dir.path().join("huida.db")) + 100;
    let failed = limited(huida(dir.path()).args(import), &format!("-f {room}")).output().unwrap();
    assert!(complaint(&failed).contains("the store is unavailable"), "{}", complaint(&failed));
    let held = store(dir.path());
    assert_eq!(held.entries().unwrap().len(), before);
    assert!(matches!(held.verify_audit().unwrap(), AuditState::Intact { .. }));
    drop(held);
    assert!(output(dir.path(), &import).status.success());
    assert_eq!(store(dir.path()).entries().unwrap().len(), before + 2_000);
}

#[test]
fn a_build_without_room_leaves_the_old_generation_serving() {
    let dir = prepared();
    let current = dir.path().join("generations/CURRENT");
    let before = std::fs::read_to_string(&current).unwrap();
    let failed = limited(huida(dir.path()).args(["index", "build"]), "-f 400").output().unwrap();
    let said = complaint(&failed);
    assert!(said.contains("File too large"), "it names what the system said: {said}");
    assert_eq!(std::fs::read_to_string(&current).unwrap(), before);
    assert!(output(dir.path(), &["ask", QUESTION]).status.success());
    assert!(output(dir.path(), &["index", "build"]).status.success());
    assert_ne!(std::fs::read_to_string(&current).unwrap(), before);
}

#[test]
fn a_store_without_room_takes_no_message_that_it_cannot_keep() {
    let (api, dir) = (FakeApi::start(), prepared());
    let accounts = api.accounts();
    let pushes = pushes(dir.path(), &accounts, 150);
    let serve = || serving(dir.path(), &accounts);
    // The database is opened, and its log cannot grow by many messages.
    let full = Served::of(limited(&serve(), "-f 600"));
    let answered: Vec<Option<u16>> = pushes.iter().map(|push| status(full.url(), push)).collect();
    let taken = answered.iter().filter(|status| **status == Some(200)).count();
    // Whatever else it gets: the platform asks again.
    assert!(taken < answered.len(), "the disk never was full");
    drop(full);
    let served = Served::of(serve());
    let refused = pushes.iter().zip(&answered).filter(|(_, status)| **status != Some(200));
    for (push, _) in refused {
        assert_eq!(status(served.url(), push), Some(200));
    }
    let store = store(dir.path());
    until(|| {
        let counts = store.outbox_counts().unwrap();
        counts.work + counts.waiting == 0
    });
    assert_eq!(store.recent_traces(999).unwrap().len(), pushes.len(), "each is decided once");
    for n in 0..pushes.len() {
        assert!(sent_to(&api, &format!("customer-{n}")).len() <= 1, "{n} was told twice");
    }
}

#[test]
fn a_clock_that_jumps_back_an_hour_delays_and_doubles_nothing() {
    let api = FakeApi::start();
    let clock = Clock::frozen(Clock::System.now());
    let running = start_in(prepared(), clock.clone(), &api.accounts());
    let said = |id: &str| {
        let mut arrival = mini("anna", id, QUESTION);
        arrival.inbound.sent_at = clock.now();
        arrival
    };
    running.desk.receive(&said("1"), None).unwrap();
    api.wait_for(1);
    // The second one's send fails, and its next try is set by the clock as it was.
    api.seen(|seen| seen.mishaps.push_back(Mishap::Busy));
    running.desk.receive(&said("2"), None).unwrap();
    until(|| api.seen(|seen| seen.mishaps.is_empty()));
    clock.put_back(Duration::from_secs(3_600));
    running.desk.receive(&said("3"), None).unwrap();
    running.desk.receive(&said("1"), None).unwrap();
    until(|| {
        let counts = running.store.outbox_counts().unwrap();
        counts.work + counts.waiting == 0 && running.store.recent_traces(9).unwrap().len() == 3
    });
    assert_eq!(sent_to(&api, "anna").len(), 3);
}

#[test]
fn a_service_that_is_stopped_amid_fifty_messages_loses_and_doubles_none() {
    const CUSTOMERS: u64 = 50;
    let (api, dir) = (FakeApi::start(), prepared());
    let accounts = api.accounts();
    let pushes = pushes(dir.path(), &accounts, CUSTOMERS);
    let serve = || serving(dir.path(), &accounts);
    let mut stopped = Served::of(serve());
    let url = stopped.url().to_owned();
    let first: Vec<Option<u16>> = std::thread::scope(|scope| {
        let asking: Vec<_> = pushes.iter().map(|push| scope.spawn(|| status(&url, push))).collect();
        std::thread::sleep(Duration::from_millis(60));
        assert!(stopped.terminate().success(), "it ends by itself, and well");
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let served = Served::of(serve());
    for push in &pushes {
        assert_eq!(status(served.url(), push), Some(200), "{first:?}");
    }
    let store = store(dir.path());
    until(|| {
        let counts = store.outbox_counts().unwrap();
        counts.work + counts.waiting == 0
    });
    assert_eq!(store.recent_traces(99).unwrap().len() as u64, CUSTOMERS);
    let unsure = store.open_cases(99, 0).unwrap().len();
    for n in 0..CUSTOMERS {
        assert!(sent_to(&api, &format!("customer-{n}")).len() <= 1, "{n} was told twice");
    }
    let told = api.seen(|seen| seen.sent.len());
    assert!((told + unsure) as u64 >= CUSTOMERS, "{told} were told and {unsure} are with people");
}

#[test]
fn damaged_weights_are_never_multiplied() {
    let dir = prepared();
    let models = dir.path().join("models");
    std::fs::create_dir(&models).unwrap();
    let good = installed_or_pull("e5-small");
    let weights = models.join(good.file_name().unwrap());
    let ask = || {
        let text = configuration(dir.path());
        let ours = format!("dir = \"{}\"", good.parent().unwrap().display());
        let mut command = huida(dir.path());
        let text = text.replace(&ours, &format!("dir = \"{}\"", models.display()));
        std::fs::write(dir.path().join("huida.toml"), text).unwrap();
        command.args(["ask", QUESTION, "--json"]).output().unwrap()
    };
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(complaint(&ask()).contains("huida models pull e5-small"), "half of the file");
    let mut swapped = bytes.clone();
    swapped[bytes.len() / 2] ^= 1;
    std::fs::write(&weights, &swapped).unwrap();
    let said = complaint(&ask());
    assert!(said.contains("sha256") && said.contains("huida models pull"), "{said}");
    std::fs::write(&weights, &bytes).unwrap();
    let right = json(&ask())["evidence"].clone();
    // What was packed of them is packed anew when it is not what was written.
    let packed = weights.with_extension("packed");
    let mut damaged = std::fs::read(&packed).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xFF;
    std::fs::write(&packed, &damaged).unwrap();
    assert_eq!(json(&ask())["evidence"], right);
}

#[test]
fn little_memory_and_a_configuration_that_cannot_be_written_are_enough() {
    let dir = prepared();
    let mut command = huida(dir.path());
    command.args(["ask", QUESTION, "--json"]);
    let file = dir.path().join("huida.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    let before = std::fs::read(&file).unwrap();
    let answered = limited(&command, "-v 1500000").output().unwrap();
    assert_eq!(json(&answered)["evidence"][0]["id"], "shop.refund.time");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn one_service_at_a_time_has_a_store_and_commands_work_beside_it() {
    let dir = prepared();
    let mut served = Served::start(dir.path());
    let mut second = huida(dir.path());
    second.arg("serve").env("HUIDA__SERVER__LISTEN", "127.0.0.1:0");
    let said = complaint(&second.output().unwrap());
    assert!(said.contains("stop that service first") && said.trim().lines().count() == 1, "{said}");
    assert!(output(dir.path(), &["ask", QUESTION]).status.success());
    assert!(served.terminate().success());
    drop(Served::start(dir.path()));
}

#[test]
fn a_log_that_nobody_reads_costs_no_message() {
    let (api, dir) = (FakeApi::start(), prepared());
    let accounts = api.accounts();
    let pushes = pushes(dir.path(), &accounts, 3);
    let mut command = huida(dir.path());
    let text = configuration(dir.path()) + &accounts;
    std::fs::write(dir.path().join("huida.toml"), text).unwrap();
    command.arg("serve").env("RUST_LOG", "info");
    // What it says is read up to the address; then the pipe is closed.
    let served = Served::of(command);
    for push in &pushes {
        assert_eq!(status(served.url(), push), Some(200));
    }
    api.wait_for(pushes.len());
}
