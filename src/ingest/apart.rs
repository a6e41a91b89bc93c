//! Documents are read in a process of their own, whose time, memory and output are bounded: parsers
//! of such files can be made to loop, to swell or to panic, and the service must not.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::IngestError;
use super::document::{self, Block, BlockKind, Content, Document, Draft, Sheet};
use super::kind::{self, FileKind};

/// What reading one file may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The `huida` binary, which is called with [`SUBCOMMAND`].
    pub program: PathBuf,
    pub wall: Duration,
    pub processor: Duration,
    /// Address space, of which a process that does nothing takes a fifth.
    pub memory_bytes: u64,
    pub output_bytes: u64,
}

impl Default for Limits {
    /// Ten times what the largest ordinary files were seen to take.
    fn default() -> Self {
        Self {
            // This binary, even when another has been installed over it meanwhile.
            program: PathBuf::from("/proc/self/exe"),
            wall: Duration::from_secs(180),
            processor: Duration::from_secs(90),
            memory_bytes: 1_536 << 20,
            output_bytes: 256 << 20,
        }
    }
}

/// The hidden word of the command line under which the binary calls itself.
pub const SUBCOMMAND: &str = "read-apart";

/// Reads a document; a workbook gives the rows of its sheets.
pub fn read_document(path: &Path, limits: &Limits) -> Result<Document, IngestError> {
    match read(path, limits)? {
        Content::Document(document) => Ok(document),
        Content::Sheets(sheets) => of_sheets(path, &sheets),
    }
}

/// The document that a workbook is, whose sheets were read from `path`.
pub(super) fn of_sheets(path: &Path, sheets: &[Sheet]) -> Result<Document, IngestError> {
    document::of_sheets(path, sheets).map_err(|reason| IngestError::file(path, reason))
}

/// Reads a workbook's sheets.
pub fn read_sheets(path: &Path, limits: &Limits) -> Result<Vec<Sheet>, IngestError> {
    match read(path, limits)? {
        Content::Sheets(sheets) => Ok(sheets),
        Content::Document(_) => Err(IngestError::file(path, "is not a workbook")),
    }
}

fn read(path: &Path, limits: &Limits) -> Result<Content, IngestError> {
    // Refused here if it can be: a process costs some 20 ms.
    let kind = kind::kind(path)?;
    if matches!(kind, FileKind::Csv | FileKind::JsonLines) {
        return Err(IngestError::file(path, "holds rows, not a document; import it as knowledge"));
    }
    let mut child = spawn(path, limits).map_err(|e| IngestError::io(&limits.program, e))?;
    let (send, received) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        let most = limits.output_bytes;
        std::thread::spawn(move || send.send(collect(output.take(most))));
    }
    let heard = received.recv_timeout(limits.wall);
    if heard.is_err() {
        // It may have ended by itself just now.
        drop(child.kill());
    }
    let refuse = |reason: String| IngestError::file(path, reason);
    let status = wait(&mut child).map_err(|e| IngestError::io(path, e))?;
    let said = heard.map_err(|_| refuse(too_slow(limits.wall)))?;
    let content = said.ok_or_else(|| refuse(unfinished(status, limits)))?;
    content(path).map_err(refuse)
}

fn spawn(path: &Path, limits: &Limits) -> std::io::Result<Child> {
    Command::new(&limits.program)
        .arg(SUBCOMMAND)
        .arg("--processor-seconds")
        .arg(limits.processor.as_secs().max(1).to_string())
        .arg("--memory-bytes")
        .arg(limits.memory_bytes.to_string())
        .arg("--")
        .arg(path)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Its output is at its end or no longer wanted: it ends by itself or is made to.
fn wait(child: &mut Child) -> std::io::Result<ExitStatus> {
    drop(child.stdout.take());
    child.wait()
}

fn too_slow(limit: Duration) -> String {
    format!("could not be read within {} s; split it into parts", limit.as_secs())
}

/// Why a process ended before it had said everything.
fn unfinished(status: ExitStatus, limits: &Limits) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(signal) if signal == rustix::process::Signal::XCPU.as_raw() => {
            too_slow(limits.processor)
        }
        Some(signal) if signal == rustix::process::Signal::KILL.as_raw() => {
            too_slow(limits.processor)
        }
        Some(_) => format!(
            "needs more than {} MB of memory or is damaged; split it, or save it again",
            limits.memory_bytes >> 20
        ),
        None => "could not be read to its end; save it again, or as PDF".to_owned(),
    }
}

/// What passes from one process to the other, a JSON object per line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Title(String),
    Note(String),
    Block {
        kind: BlockKind,
        text: String,
        page: Option<u32>,
    },
    Sheet(String),
    Row(u32, Vec<String>),
    Refused(String),
    /// Nothing was lost.
    End,
}

type Finish = Box<dyn FnOnce(&Path) -> Result<Content, String> + Send>;

/// The content as far as it is complete; `None` if the output ends before it says so.
fn collect(output: impl Read) -> Option<Finish> {
    let (mut title, mut notes, mut sheets) = (None, Vec::new(), Vec::<Sheet>::new());
    let mut draft = Draft::default();
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line.ok()?).ok()? {
            Line::Title(text) => title = Some(text),
            Line::Note(text) => notes.push(text),
            Line::Block { kind, text, page } => draft.push_on_page(kind, &text, page),
            Line::Sheet(name) => sheets.push(Sheet { name, rows: Vec::new() }),
            Line::Row(number, cells) => sheets.last_mut()?.rows.push((number, cells)),
            Line::Refused(reason) => return Some(Box::new(|_| Err(reason))),
            Line::End if sheets.is_empty() => {
                return Some(Box::new(move |path| {
                    draft.about(title, notes).finish(path).map(Content::Document)
                }));
            }
            Line::End => return Some(Box::new(|_| Ok(Content::Sheets(sheets)))),
        }
    }
    None
}

/// Parsers recurse; the stack is part of the address space and taken as it is used.
const STACK_BYTES: usize = 128 << 20;

/// The other side: binds itself, reads the file and writes what it says to `out`.
pub fn serve(
    path: &Path,
    processor: Duration,
    memory_bytes: u64,
    out: &mut (dyn Write + Send),
) -> std::io::Result<()> {
    bind(processor, memory_bytes)?;
    let reading = {
        let path = path.to_owned();
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let kind = kind::kind(&path).map_err(|e| e.to_string())?;
            let bytes = kind::read(&path).map_err(|e| e.to_string())?;
            document::parse(&path, kind, bytes)
        })?
    };
    let content = reading.join().unwrap_or_else(|_| {
        Err("is damaged or of a kind that cannot be read; save it again, or as PDF".into())
    });
    let mut out = std::io::BufWriter::new(out);
    match content {
        Ok(Content::Document(Document { title, blocks, notes })) => {
            say(&mut out, &Line::Title(title))?;
            for note in notes {
                say(&mut out, &Line::Note(note))?;
            }
            for Block { kind, text, page, offset: _ } in blocks {
                say(&mut out, &Line::Block { kind, text, page })?;
            }
            say(&mut out, &Line::End)?;
        }
        Ok(Content::Sheets(sheets)) => {
            for Sheet { name, rows } in sheets {
                say(&mut out, &Line::Sheet(name))?;
                for (number, cells) in rows {
                    say(&mut out, &Line::Row(number, cells))?;
                }
            }
            say(&mut out, &Line::End)?;
        }
        // What a library says of a file may run over several lines.
        Err(reason) => {
            let reason = reason.lines().collect::<Vec<_>>().join(" ");
            say(&mut out, &Line::Refused(reason))?;
        }
    }
    out.flush()
}

/// From here on this process can neither take more nor write a file.
fn bind(processor: Duration, memory_bytes: u64) -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Cpu, limit(processor.as_secs().max(1)))?;
    setrlimit(Resource::As, limit(memory_bytes))?;
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Fsize, limit(0))?;
    Ok(())
}

fn say(out: &mut impl Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
