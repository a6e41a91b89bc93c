//! Workbooks as sheets of text, each cell as its user sees it.

use std::collections::BTreeMap;
use std::io::Cursor;

use calamine::{Data, DataType, Reader, SheetType, SheetVisible, StyleRange, Xls, Xlsx};
use serde::{Deserialize, Serialize};

use super::package::Package;
use super::tidy;

/// A visible sheet that holds something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sheet {
    pub name: String,
    /// Rows that hold something, with their numbers as the program shows them, from 1.
    pub rows: Vec<(u32, Vec<String>)>,
}

/// Most cells of a workbook that hold something.
const CELLS: usize = 5_000_000;
/// Columns beyond this are no table that a person wrote.
const COLUMNS: u32 = 1_000;

pub(super) fn read(bytes: &[u8]) -> Result<Vec<Sheet>, String> {
    let sheets: Result<Vec<Sheet>, String> = if bytes.starts_with(b"PK") {
        // Checks what the archive unpacks to before anything is unpacked.
        drop(Package::open(bytes)?);
        let mut book = Xlsx::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
        visible(&book).into_iter().map(|name| xlsx_sheet(&mut book, name)).collect()
    } else {
        let mut book = Xls::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
        visible(&book).into_iter().map(|name| xls_sheet(&mut book, name)).collect()
    };
    let mut sheets = sheets?;
    sheets.retain(|sheet| !sheet.rows.is_empty());
    if sheets.is_empty() {
        return Err("holds no visible sheet with anything in it".into());
    }
    let cells: usize = sheets.iter().flat_map(|s| &s.rows).map(|(_, cells)| cells.len()).sum();
    if cells > CELLS {
        return Err(format!("has {cells} cells, at most {CELLS} are read; split it into parts"));
    }
    Ok(sheets)
}

fn damaged(error: &impl std::fmt::Display) -> String {
    let reason = error.to_string();
    if reason.to_lowercase().contains("password") || reason.to_lowercase().contains("encrypt") {
        return "is protected by a password; save it without one".into();
    }
    format!("is a damaged workbook ({reason}); open it and save it again as .xlsx")
}

fn visible<RS: std::io::Read + std::io::Seek, R: Reader<RS>>(book: &R) -> Vec<String> {
    let shown = |sheet: &&calamine::Sheet| {
        sheet.visible == SheetVisible::Visible && sheet.typ == SheetType::WorkSheet
    };
    book.sheets_metadata().iter().filter(shown).map(|sheet| sheet.name.clone()).collect()
}

type Cells = BTreeMap<u32, BTreeMap<u32, String>>;

fn xlsx_sheet(book: &mut Xlsx<Cursor<&[u8]>>, name: String) -> Result<Sheet, String> {
    let styles = book.worksheet_style(&name).unwrap_or_else(|_| StyleRange::empty());
    let mut cells = xlsx_cells(book, &name, &styles)?;
    for merged in book.merge_cells_by_sheet_name(&name).unwrap_or_default() {
        spread_down(&mut cells, merged);
    }
    Ok(sheet(name, cells))
}

/// One by one: a stray word in the last row must not cost a million rows.
fn xlsx_cells(
    book: &mut Xlsx<Cursor<&[u8]>>,
    name: &str,
    styles: &StyleRange,
) -> Result<Cells, String> {
    let named = |e: calamine::XlsxError| format!("sheet {name}: {}", damaged(&e));
    let mut cells = Cells::new();
    let mut count = 0;
    let mut reader = book.worksheet_cells_reader(name).map_err(named)?;
    while let Some(cell) = reader.next_cell().map_err(named)? {
        let at = cell.get_position();
        let format = styles.get(at).and_then(|style| style.number_format.as_ref());
        let data = Data::from(cell.get_value().clone());
        let text = shown(&data, format.map_or("", |f| f.format_code.as_str()));
        if !text.is_empty() && at.1 < COLUMNS {
            count += 1;
            if count > CELLS {
                return Err(format!("sheet {name}: has more than {CELLS} cells; split it"));
            }
            cells.entry(at.0).or_default().insert(at.1, text);
        }
    }
    Ok(cells)
}

fn xls_sheet(book: &mut Xls<Cursor<&[u8]>>, name: String) -> Result<Sheet, String> {
    let range =
        book.worksheet_range(&name).map_err(|e| format!("sheet {name}: {}", damaged(&e)))?;
    let (top, left) = range.start().unwrap_or_default();
    let mut cells = Cells::new();
    for (row, column, data) in range.used_cells() {
        let at = |offset: u32, n: usize| offset + u32::try_from(n).unwrap_or(u32::MAX / 2);
        let text = shown(data, "");
        if !text.is_empty() && at(left, column) < COLUMNS {
            cells.entry(at(top, row)).or_default().insert(at(left, column), text);
        }
    }
    Ok(sheet(name, cells))
}

/// A cell merged over several rows counts for each that holds anything else.
fn spread_down(cells: &mut Cells, merged: calamine::Dimensions) {
    let ((top, left), (bottom, _)) = (merged.start, merged.end);
    if bottom <= top {
        return;
    }
    let Some(text) = cells.get(&top).and_then(|row| row.get(&left)).cloned() else { return };
    for (_, row) in cells.range_mut(top + 1..=bottom) {
        row.entry(left).or_insert_with(|| text.clone());
    }
}

fn sheet(name: String, cells: Cells) -> Sheet {
    let rows = cells.into_iter().map(|(row, cells)| {
        let width = cells.keys().next_back().map_or(0, |last| last + 1);
        let text = |column| cells.get(&column).cloned().unwrap_or_default();
        (row + 1, (0..width).map(text).collect())
    });
    Sheet { rows: rows.collect(), name }
}

/// A value as its cell shows it.
fn shown(data: &Data, format: &str) -> String {
    match data {
        Data::String(text) => text
            .lines()
            .map(tidy::line)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n"),
        Data::Int(n) => number(data.as_f64(), format).unwrap_or_else(|| n.to_string()),
        Data::Float(n) => number(Some(*n), format).unwrap_or_else(|| plain(*n)),
        Data::Bool(true) => "TRUE".into(),
        Data::Bool(false) => "FALSE".into(),
        Data::DateTime(at) if at.is_duration() => duration(at.as_f64()),
        Data::DateTime(at) => date(at),
        Data::DateTimeIso(text) | Data::DurationIso(text) => text.clone(),
        // An error is nothing that a customer should be told.
        Data::Error(_) | Data::Empty => String::new(),
    }
}

/// Fifteen digits count, as in the program itself: 0.1 + 0.2 is 0.3.
fn plain(n: f64) -> String {
    let rounded: f64 = format!("{n:.14e}").parse().unwrap_or(n);
    rounded.to_string()
}

/// By its number format: decimals, percent, thousands, and money or units before and after it.
fn number(n: Option<f64>, format: &str) -> Option<String> {
    let n = n.filter(|n| n.is_finite())?;
    let mut forms = format.split(';');
    let first = forms.next()?;
    // A form of its own for negative numbers carries its own sign, often brackets.
    let (form, n) = match forms.next() {
        Some(negative) if n < 0.0 && !negative.is_empty() => (negative, -n),
        Some(_) | None => (first, n),
    };
    let form = literal(form);
    if form.contains(['E', 'e', '?', '/', '@']) || !form.contains(['0', '#']) {
        return None;
    }
    let begin = form.find(['0', '#'])?;
    let end = form.rfind(['0', '#'])? + 1;
    let (before, digits, after) = (&form[..begin], &form[begin..end], &form[end..]);
    let percent = after.starts_with('%') || before.ends_with('%');
    let n = if percent { n * 100.0 } else { n };
    let decimals = digits.split_once('.').map_or("", |(_, d)| d);
    let (most, least) = (decimals.len().min(12), decimals.matches('0').count().min(12));
    let mut text = format!("{:.most$}", plain(n).parse::<f64>().unwrap_or(n));
    while text.contains('.')
        && text.split_once('.').is_some_and(|(_, d)| d.len() > least && d.ends_with('0'))
    {
        text.pop();
    }
    let text = text.strip_suffix('.').unwrap_or(&text);
    let whole_digits = digits.split('.').next().unwrap_or_default().matches('0').count();
    let text = grouped(text, whole_digits.min(20), digits.contains(','));
    let unquoted = |s: &str| s.replace(QUOTED_DIGIT, "0");
    Some(format!("{}{text}{}", unquoted(before), unquoted(after)).trim().to_owned())
}

/// Stands for a zero that is text, so that it is not taken for a digit's place.
const QUOTED_DIGIT: char = '\u{1}';

/// A format's text without the marks that only arrange it: quotes, colours, conditions, fillers.
fn literal(form: &str) -> String {
    let mut out = String::new();
    let mut chars = form.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let quoted = chars.by_ref().take_while(|c| *c != '"');
                out.extend(quoted.map(|c| if c == '0' { QUOTED_DIGIT } else { c }));
            }
            '\\' => out.extend(chars.next()),
            '_' | '*' => _ = chars.next(),
            '[' => {
                let inside: String = chars.by_ref().take_while(|c| *c != ']').collect();
                // [$¥-804] names a currency, anything else a colour or a condition.
                if let Some(money) = inside.strip_prefix('$') {
                    out.push_str(money.split('-').next().unwrap_or_default());
                }
            }
            _ => out.push(c),
        }
    }
    if out.eq_ignore_ascii_case("general") { String::new() } else { out }
}

fn grouped(number: &str, least: usize, thousands: bool) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
    let mut whole = format!("{whole:0>least$}");
    if thousands {
        let mut at = whole.len();
        while at > 3 {
            at -= 3;
            whole.insert(at, ',');
        }
    }
    fraction.map_or_else(|| format!("{sign}{whole}"), |f| format!("{sign}{whole}.{f}"))
}

/// A day, with the time if it is not midnight; a time alone below the first day.
fn date(at: &calamine::ExcelDateTime) -> String {
    let (year, month, day, hour, minute, second, _) = at.to_ymd_hms_milli();
    let seconds = if second > 0 { format!(":{second:02}") } else { String::new() };
    if at.as_f64() < 1.0 {
        return format!("{hour:02}:{minute:02}{seconds}");
    }
    let date = format!("{year:04}-{month:02}-{day:02}");
    if (hour, minute, second) == (0, 0, 0) {
        return date;
    }
    format!("{date} {hour:02}:{minute:02}{seconds}")
}

fn duration(days: f64) -> String {
    let seconds = (days * 86_400.0).round().clamp(-1e12, 1e12) as i64;
    format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_they_are_shown() {
        for (n, format, text) in [
            (8.0, "", "8"),
            (0.1 + 0.2, "General", "0.3"),
            (0.15, "0%", "15%"),
            (0.0525, "0.00%", "5.25%"),
            (1234.5, "#,##0.00", "1,234.50"),
            (1234.5, "¥#,##0.00;[Red]¥-#,##0.00", "¥1,234.50"),
            (-5.0, "[$¥-804]#,##0.00;(¥#,##0.00)", "(¥5.00)"),
            (8.0, "0\"元\"", "8元"),
            (7.0, "000", "007"),
            (2.34567, "0.##", "2.35"),
            (1e15, "", "1000000000000000"),
        ] {
            let cell = shown(&Data::Float(n), format);
            assert_eq!(cell, text, "{n} as {format}");
        }
    }
}
