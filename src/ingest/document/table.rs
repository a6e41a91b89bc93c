//! Rows of a table as text that can be read alone: every cell with its column's name.

use super::{BlockKind, Draft, tidy};

/// The most columns whose names are repeated in each row.
const COLUMNS: usize = 200;

/// Takes a table whose first row names the columns; a table of one row or one column is plain text.
pub(super) fn push(draft: &mut Draft, rows: Vec<Vec<String>>, page: Option<u32>) {
    let mut rows = rows.into_iter().filter(|row| row.iter().any(|cell| !cell.trim().is_empty()));
    let Some(first) = rows.next() else { return };
    let mut rows = rows.peekable();
    let named = first.iter().filter(|cell| !cell.trim().is_empty()).count();
    if rows.peek().is_none() || named < 2 {
        for row in std::iter::once(first).chain(rows) {
            draft.push_on_page(BlockKind::TableRow, &filled(&row).join("; "), page);
        }
        return;
    }
    for row in rows {
        draft.push_on_page(BlockKind::TableRow, &text(&first, &row), page);
    }
}

/// `列: 值; 列: 值`, without empty cells; a cell that repeats its column's name stands alone.
pub(super) fn text(header: &[String], row: &[String]) -> String {
    let mut parts = Vec::new();
    for (at, cell) in row.iter().enumerate().take(COLUMNS) {
        let cell = tidy::line(cell);
        if cell.is_empty() {
            continue;
        }
        let name = header.get(at).map(|name| tidy::line(name)).unwrap_or_default();
        let name = name.trim_end_matches(['：', ':']);
        parts.push(if name.is_empty() || name == cell { cell } else { format!("{name}: {cell}") });
    }
    parts.join("; ")
}

fn filled(row: &[String]) -> Vec<String> {
    row.iter().map(|cell| tidy::line(cell)).filter(|cell| !cell.is_empty()).collect()
}
