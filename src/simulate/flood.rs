//! Callbacks of someone who means harm: forged, huge, slow, nested, self-expanding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::driver::Driver;
use super::{Call, Said, What};
use crate::base::clock::Stopwatch;

/// Connections that trickle a request, one byte at a time.
const SLOW_ONES: usize = 50;
const TRICKLE: Duration = Duration::from_millis(500);
/// At most so many wait for their refusal; what is due beyond them is not sent.
const AT_ONCE: usize = 64;
const HUGE: usize = (1 << 20) + (1 << 16);

/// What came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Flooded {
    pub sent: usize,
    pub per_s: f64,
    /// Answered with a 4xx.
    pub refused: usize,
    /// Answered with a 2xx: something forged was taken on.
    pub taken: usize,
    /// Answered with a 5xx, or not at all.
    pub broken: usize,
}

#[derive(Default)]
struct Tally {
    refused: AtomicUsize,
    taken: AtomicUsize,
    broken: AtomicUsize,
}

/// One kind of bad callback after another at `rate` a second for `lasting`.
pub async fn run(driver: &Arc<Driver>, rate: f64, lasting: Duration) -> Flooded {
    let stop = Arc::new(AtomicBool::new(false));
    let slow: Vec<_> =
        (0..SLOW_ONES).map(|_| tokio::spawn(trickle(driver.clone(), stop.clone()))).collect();
    let bad = bad_calls(driver);
    let (tally, watch) = (Arc::new(Tally::default()), Stopwatch::start());
    let (mut sent, mut tasks) = (0_usize, JoinSet::new());
    while watch.elapsed() < lasting {
        let due = (watch.elapsed().as_secs_f64() * rate) as usize;
        while sent < due && tasks.len() < AT_ONCE && !bad.is_empty() {
            // Huge ones are rare: what is tried is the service, not this machine's loopback.
            let call = &bad[if sent.is_multiple_of(97) { 0 } else { 1 + sent % (bad.len() - 1) }];
            tasks.spawn(one(driver.clone(), call.clone(), tally.clone()));
            sent += 1;
        }
        while tasks.try_join_next().is_some() {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seconds = watch.elapsed().as_secs_f64();
    while tasks.join_next().await.is_some() {}
    stop.store(true, Ordering::SeqCst);
    for one in slow {
        // A slow one that was cut off has done its work.
        let _ = one.await;
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    let (refused, taken, broken) =
        (count(&tally.refused), count(&tally.taken), count(&tally.broken));
    Flooded { sent, per_s: sent as f64 / seconds, refused, taken, broken }
}

async fn one(driver: Arc<Driver>, call: Call, tally: Arc<Tally>) {
    let counter = match driver.post(call).await {
        Ok(answer) if answer.status().is_client_error() => &tally.refused,
        Ok(answer) if answer.status().is_success() => &tally.taken,
        Ok(_) | Err(_) => &tally.broken,
    };
    counter.fetch_add(1, Ordering::SeqCst);
}

/// The huge one first.
fn bad_calls(driver: &Driver) -> Vec<Call> {
    let what = What::Text("退款一般几天到账".into());
    let said = Said { customer: "forger".into(), id: 1, created: 1_700_000_000, what };
    let Ok(good) = driver.side.call(&said, 1_700_000_000) else { return Vec::new() };
    let with = |body: Vec<u8>| Call { body, ..good.clone() };
    let mut tampered = good.body.clone();
    if let Some(byte) = tampered.iter_mut().rev().nth(40) {
        *byte ^= 1;
    }
    vec![
        with(vec![b'x'; HUGE]),
        good.clone().forged(),
        good.clone().unsigned(),
        with(tampered),
        with(bomb().into_bytes()),
        with("[".repeat(60_000).into_bytes()),
        with("<a>".repeat(20_000).into_bytes()),
    ]
}

/// "Billion laughs": ten entities, each ten of the one before.
fn bomb() -> String {
    let entities: String = (1..10)
        .map(|n| format!("<!ENTITY e{n} \"{}\">", format!("&e{};", n - 1).repeat(10)))
        .collect();
    format!("<!DOCTYPE xml [<!ENTITY e0 \"ha\">{entities}]><xml><Encrypt>&e9;</Encrypt></xml>")
}

/// A request that never ends; opened again when the service cuts it.
async fn trickle(driver: Arc<Driver>, stop: Arc<AtomicBool>) {
    let url = driver.callback();
    let Some(address) = url.socket_addrs(|| None).ok().and_then(|all| all.first().copied()) else {
        return;
    };
    let head =
        format!("POST {} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 4000\r\n", url.path());
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            tokio::time::sleep(TRICKLE).await;
            continue;
        };
        for byte in head.bytes().chain(*b"\r\n<xml>").chain(std::iter::repeat_n(b'a', 3_900)) {
            if stop.load(Ordering::SeqCst) || stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(TRICKLE).await;
        }
    }
}
