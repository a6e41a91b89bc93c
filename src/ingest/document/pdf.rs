//! PDF: positioned text of each page; `layout` makes lines and paragraphs of it.

mod layout;

use std::panic::{AssertUnwindSafe, catch_unwind};

use pdf_oxide::PdfDocument;
use pdf_oxide::extractors::text::{ArtifactType, PaginationSubtype};

use super::Draft;
use layout::{Page, Piece};

/// Most pages of a file.
const PAGES: usize = 5_000;
/// Most page numbers that a note names one by one.
const NAMED_PAGES: usize = 10;

pub(super) fn read(bytes: Vec<u8>) -> Result<Draft, String> {
    let document = PdfDocument::from_bytes(bytes).map_err(|e| unopened(&e))?;
    if document.is_encrypted() && !document.authenticate(b"").unwrap_or(false) {
        return Err("is protected by a password; save it without one".into());
    }
    let count = document.page_count().map_err(|e| unopened(&e))?;
    if count == 0 {
        return Err("is a PDF without pages; print it to PDF again".into());
    }
    if count > PAGES {
        return Err(format!("has {count} pages, at most {PAGES} are read; split it into parts"));
    }
    let mut pages = Vec::with_capacity(count);
    let (mut unread, mut wordless) = (Vec::new(), Vec::new());
    for (number, index) in (1_u32..).zip(0..count) {
        // A page that its reader cannot cope with costs that page.
        match catch_unwind(AssertUnwindSafe(|| document.extract_spans(index))) {
            Ok(Ok(spans)) => {
                let pieces: Vec<Piece> = spans.iter().filter_map(piece).collect();
                if pieces.is_empty() {
                    wordless.push(number);
                }
                pages.push(Page { number, pieces });
            }
            Ok(Err(_)) | Err(_) => unread.push(number),
        }
    }
    if wordless.len() + unread.len() == count {
        return Err(if unread.is_empty() {
            "holds no text, only pictures of pages; give a file with the text itself".into()
        } else {
            "is damaged; open it and print it to PDF again".into()
        });
    }
    let mut draft = Draft::default();
    layout::blocks(&mut draft, pages);
    if !unread.is_empty() {
        draft.note(format!("{} could not be read (damaged)", named(&unread)));
    }
    if !wordless.is_empty() {
        draft.note(format!("{} without text (empty, or only a picture)", named(&wordless)));
    }
    Ok(draft)
}

fn unopened(error: &pdf_oxide::Error) -> String {
    let reason = error.to_string();
    if matches!(error, pdf_oxide::Error::EncryptedPdf) || reason.to_lowercase().contains("encrypt")
    {
        return "is protected by a password; save it without one".into();
    }
    format!("is a damaged PDF ({reason}); open it and print it to PDF again")
}

fn piece(span: &pdf_oxide::layout::TextSpan) -> Option<Piece> {
    let sane = [span.bbox.x, span.bbox.y, span.bbox.width, span.font_size];
    // What repeats on pages is guessed there as well, but not on the first of them, and with headings.
    let told = !matches!(
        span.artifact_type,
        None | Some(ArtifactType::Pagination(
            PaginationSubtype::Other | PaginationSubtype::PageNumber
        ))
    );
    if told || span.text.trim().is_empty() || sane.iter().any(|n| !n.is_finite()) {
        return None;
    }
    let size = if span.bbox.height > 0.5 { span.bbox.height } else { span.font_size };
    Some(Piece {
        text: span.text.clone(),
        left: span.bbox.x,
        right: span.bbox.x + span.bbox.width.max(0.0),
        baseline: span.bbox.y,
        size: size.clamp(1.0, 200.0),
        bold: span.font_weight as u16 >= 600,
    })
}

fn named(pages: &[u32]) -> String {
    let some: Vec<String> = pages.iter().take(NAMED_PAGES).map(u32::to_string).collect();
    let more = if pages.len() > NAMED_PAGES { " …" } else { "" };
    format!("{} page(s): {}{more}", pages.len(), some.join(", "))
}
