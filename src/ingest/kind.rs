//! What a file is, told by its content; its name is asked only where the content cannot tell.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use super::IngestError;
use crate::domain::knowledge::words;

words!(
    /// The formats that are read.
    FileKind {
        Text = "text",
        Markdown = "markdown",
        Html = "html",
        Docx = "docx",
        Pdf = "pdf",
        Workbook = "workbook",
        Csv = "csv",
        JsonLines = "jsonl",
    }
);

/// Largest file that is opened. A manual of 300 pages has some 10 MB; beyond this it is an archive
/// of pictures or not a document.
pub const FILE_BYTES: u64 = 200 << 20;
/// How much of a file is looked at to tell what it is.
const HEAD_BYTES: u64 = 4_096;
/// Names are looked for in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// The kind of a file that may be read, or why it may not; at most its first bytes and the names
/// of its parts are looked at.
pub fn kind(path: &Path) -> Result<FileKind, IngestError> {
    let mut file = open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(|e| IngestError::io(path, e))?;
    if find(&head[..head.len().min(1_024)], b"%PDF-").is_some() {
        return Ok(FileKind::Pdf);
    }
    let told = if head.starts_with(b"PK\x03\x04") {
        of_zip(path, &mut file)?
    } else if head.starts_with(&[0xD0, 0xCF, 0x11, 0xE0]) {
        of_compound(path, &mut file)?
    } else {
        match unreadable(&head) {
            Some(reason) => Err(reason),
            None => of_text(path, &head),
        }
    };
    told.map_err(|reason| IngestError::file(path, reason))
}

/// The file, if it is one, holds something and is not too large; nothing of it has been read.
pub(super) fn open(path: &Path) -> Result<File, IngestError> {
    // Asked before opening: to open a pipe would wait for its other end.
    let about = std::fs::metadata(path).map_err(|e| IngestError::io(path, e))?;
    if !about.is_file() {
        return Err(IngestError::file(path, "is not a file; name the files one by one"));
    }
    if about.len() == 0 {
        return Err(IngestError::file(path, "is empty; save it again from the program it is of"));
    }
    if about.len() > FILE_BYTES {
        let (has, most) = (about.len() >> 20, FILE_BYTES >> 20);
        let reason = format!("has {has} MB, at most {most} MB are read; split it into parts");
        return Err(IngestError::file(path, reason));
    }
    File::open(path).map_err(|e| IngestError::io(path, e))
}

/// All of a file that [`open`] accepts.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, IngestError> {
    let mut bytes = Vec::new();
    // It may grow while it is read.
    open(path)?.take(FILE_BYTES).read_to_end(&mut bytes).map_err(|e| IngestError::io(path, e))?;
    Ok(bytes)
}

type Told = Result<FileKind, String>;

/// Office files are zip archives; which one is told by the names of its parts.
fn of_zip(path: &Path, file: &mut File) -> Result<Told, IngestError> {
    const PARTS: [&[u8]; 5] = [
        b"word/document.xml",
        b"xl/workbook.",
        b"ppt/presentation.xml",
        b"application/vnd.oasis.opendocument",
        b"application/epub",
    ];
    let seen = find_first(file, &PARTS).map_err(|e| IngestError::io(path, e))?;
    Ok(match seen {
        Some(0) => Ok(FileKind::Docx),
        Some(1) => Ok(FileKind::Workbook),
        Some(2) => Err("is a presentation; save it as PDF".into()),
        Some(3) => Err("is an OpenDocument file; save it as .docx or .xlsx".into()),
        Some(4) => Err("is an e-book; save it as PDF or HTML".into()),
        Some(_) | None => Err("is a zip archive; unpack it and name the files in it".into()),
    })
}

/// Old Office files, and all encrypted ones, are compound files; names in them are UTF-16.
fn of_compound(path: &Path, file: &mut File) -> Result<Told, IngestError> {
    let names = ["EncryptedPackage", "WordDocument", "Workbook", "PowerPoint Document"];
    let names =
        names.map(|name| name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let seen = find_first(file, &names).map_err(|e| IngestError::io(path, e))?;
    Ok(match seen {
        Some(0) => Err("is protected by a password; save it without one".into()),
        Some(1) => Err("is an old Word file; save it as .docx".into()),
        Some(2) => Ok(FileKind::Workbook),
        Some(3) => Err("is an old presentation; save it as PDF".into()),
        Some(_) | None => Err("is an old Office file; save it as .docx, .xlsx or PDF".into()),
    })
}

/// What is plainly not text, and what to do about it.
fn unreadable(head: &[u8]) -> Option<String> {
    const PICTURES: [&[u8]; 6] = [b"\x89PNG", b"\xFF\xD8\xFF", b"GIF8", b"BM", b"II*\0", b"MM\0*"];
    const ARCHIVES: [&[u8]; 4] = [b"Rar!", b"7z\xBC\xAF\x27\x1C", b"\x1F\x8B", b"PK"];
    let is = |marks: &[&[u8]]| marks.iter().any(|mark| head.starts_with(mark));
    let has_zero = head.contains(&0);
    if is(&PICTURES) && (has_zero || head.starts_with(b"GIF8")) {
        return Some("is a picture; text in pictures is not read, give the text itself".into());
    }
    if is(&ARCHIVES) && has_zero {
        return Some("is an archive; unpack it and name the files in it".into());
    }
    if head.starts_with(b"{\\rtf") {
        return Some("is rich text (RTF); save it as .docx".into());
    }
    let marked = encoding_rs::Encoding::for_bom(head).is_some();
    (has_zero && !marked).then(|| {
        "is neither text nor a document; .pdf, .docx, .xlsx, .html, .md, .txt, .csv and .jsonl are read"
            .into()
    })
}

/// Text formats look alike, so that the name decides, except for what begins as HTML.
fn of_text(path: &Path, head: &[u8]) -> Told {
    let begin: String = String::from_utf8_lossy(head)
        .trim_start_matches('\u{feff}')
        .trim_start()
        .chars()
        .take(64)
        .collect::<String>()
        .to_lowercase();
    if begin.starts_with("<!doctype html") || begin.starts_with("<html") {
        return Ok(FileKind::Html);
    }
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    match extension.as_deref() {
        Some("csv") => Ok(FileKind::Csv),
        Some("jsonl" | "ndjson" | "json") => Ok(FileKind::JsonLines),
        Some("md" | "markdown") => Ok(FileKind::Markdown),
        Some("htm" | "html" | "xhtml") => Ok(FileKind::Html),
        Some("txt" | "text") | None => Ok(FileKind::Text),
        Some("pdf" | "docx" | "xlsx" | "xls" | "doc") => {
            Err("is not what its name says, or is damaged; save it again".into())
        }
        Some(other) => Err(format!(
            "unknown kind of file .{other}; .pdf, .docx, .xlsx, .html, .md, .txt, .csv and .jsonl are read"
        )),
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    aho_corasick::AhoCorasick::new([needle]).ok()?.find(bytes).map(|found| found.start())
}

/// The most telling needle (the first of the list) that stands anywhere in the file.
fn find_first(file: &mut File, needles: &[&[u8]]) -> std::io::Result<Option<usize>> {
    let search = aho_corasick::AhoCorasick::new(needles)
        .map_err(|e| std::io::Error::new(ErrorKind::InvalidInput, e))?;
    let overlap = needles.iter().map(|n| n.len()).max().unwrap_or(1) - 1;
    file.seek(SeekFrom::Start(0))?;
    let mut window = Vec::with_capacity(PIECE_BYTES + overlap);
    let mut best: Option<usize> = None;
    loop {
        let kept = window.len().min(overlap);
        window.drain(..window.len() - kept);
        let read = file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut window)?;
        for found in search.find_overlapping_iter(&window) {
            let at = found.pattern().as_usize();
            best = Some(best.map_or(at, |b| b.min(at)));
        }
        if read == 0 || best == Some(0) {
            return Ok(best);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn told(name: &str, content: &[u8]) -> Result<FileKind, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        kind(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn content_is_believed_before_the_name() {
        assert_eq!(told("a.docx", b"\n%PDF-1.7 ..."), Ok(FileKind::Pdf));
        assert_eq!(told("a.xls", b"  <HTML><table>"), Ok(FileKind::Html));
        assert_eq!(told("a.pdf", b"PK\x03\x04....xl/workbook.xml"), Ok(FileKind::Workbook));
        assert_eq!(told("a.md", "# 退货".as_bytes()), Ok(FileKind::Markdown));
        assert_eq!(told("README", "退货".as_bytes()), Ok(FileKind::Text));
        let utf16: Vec<u8> = [0xFF, 0xFE].into_iter().chain([b'a', 0]).collect();
        assert_eq!(told("a.txt", &utf16), Ok(FileKind::Text));
    }

    #[test]
    fn what_is_not_read_is_refused_with_what_to_do() {
        for (name, content, say) in [
            ("a.pdf", &b""[..], "is empty"),
            ("a.pdf", b"hello", "not what its name says"),
            ("a.pptx", b"PK\x03\x04 ppt/presentation.xml", "save it as PDF"),
            ("a.zip", b"PK\x03\x04 notes.txt", "unpack it"),
            ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "picture"),
            ("a.bin", b"\x00\x01\x02", "neither text nor a document"),
            ("a.rtf", b"{\\rtf1 x}", "save it as .docx"),
            ("a.xyz", b"text", "unknown kind of file .xyz"),
        ] {
            let reason = told(name, content).unwrap_err();
            assert!(reason.contains(say), "{name}: {reason}");
        }
        let word = |name: &str| {
            let mut bytes = vec![0xD0, 0xCF, 0x11, 0xE0];
            bytes.resize(2 << 20, 0);
            bytes.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
            told("a.docx", &bytes)
        };
        assert!(word("EncryptedPackage").unwrap_err().contains("password"));
        assert!(word("WordDocument").unwrap_err().contains("save it as .docx"));
        assert_eq!(word("Workbook"), Ok(FileKind::Workbook));
    }

    #[test]
    fn a_file_of_a_gigabyte_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.pdf");
        // Sparse: takes no room, and would take a while to read.
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let reason = kind(&path).unwrap_err().to_string();
        assert!(reason.contains("has 1024 MB, at most 200 MB"), "{reason}");
        assert!(kind(dir.path()).unwrap_err().to_string().contains("is not a file"));
    }
}
