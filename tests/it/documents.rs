//! Documents as companies have them, read by the real binary in a process of its own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use huida::base::clock::Stopwatch;
use huida::domain::knowledge::EntryState;
use huida::ingest::{
    BlockKind, Document, FileKind, IngestError, Knowledge, Limits, kind, passages, preview,
    read_document, read_knowledge, read_sheets,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::repository;

fn limits() -> Limits {
    Limits { program: PathBuf::from(env!("CARGO_BIN_EXE_huida")), ..Limits::default() }
}

fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/documents").join(name)
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn blocks(document: &Document) -> Vec<(BlockKind, &str)> {
    document.blocks.iter().map(|b| (b.kind, b.text.as_str())).collect()
}

fn refusal<T: std::fmt::Debug>(read: Result<T, IngestError>) -> String {
    read.unwrap_err().to_string()
}

#[test]
fn chinese_pdf_with_an_embedded_font() {
    let document = read_document(&fixture("embedded.pdf"), &limits()).unwrap();
    let lines = blocks(&document);
    assert_eq!(lines[0], (BlockKind::Heading(1), "第1章 退货期限"));
    assert_eq!(
        lines[1],
        (
            BlockKind::Paragraph,
            "自签收之日起七天内，商品未使用且包装完好的，可以申请无理由退货。生鲜、定制商品和贴身衣物除外，具体以商品页的说明为准；运费由买家承担。"
        )
    );
    assert!(lines.contains(&(BlockKind::TableRow, "地区: 新疆西藏; 首重运费: 25元; 续重: 15元")));
    let text = document.text();
    assert!(!text.contains("内部资料") && !text.contains("共 3 页"), "{text}");
    let passages = passages(&document);
    assert_eq!(passages.len(), 3);
    assert_eq!(passages[2].heading_path, ["第3章 运费说明"]);
    assert_eq!(passages[2].page, Some(3));
}

#[test]
fn chinese_pdf_whose_font_is_not_embedded() {
    let document = read_document(&fixture("not_embedded.pdf"), &limits()).unwrap();
    let text = document.text();
    assert!(text.contains("第2章 退货与退款"), "{text}");
    assert!(text.contains("生鲜、定制商品和贴身衣物除外"), "{text}");
    assert!(text.contains("original payment method"), "{text}");
    assert!(!text.contains("内部资料"), "{text}");
}

/// A PDF of so many pages, written by hand; `broken` points its table of objects nowhere.
fn pdf(pages: usize, broken: bool) -> Vec<u8> {
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!(
            "<< /Type /Pages /Count {pages} /Kids [{}] >>",
            (0..pages).map(|n| format!("{} 0 R ", 4 + 2 * n)).collect::<String>()
        ),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for page in 0..pages {
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {} 0 R \
             /Resources << /Font << /F1 3 0 R >> >> >>",
            5 + 2 * page
        ));
        let mut content = format!(
            "BT /F1 9 Tf 72 800 Td (Manual of the shop) Tj ET\nBT /F1 9 Tf 280 30 Td (Page {}) Tj ET\n",
            page + 1
        );
        for line in 0..35 {
            let what = ["a lamp", "a chair", "a gift", "food", "a book", "shoes", "a phone"];
            let (what, height) = (what[(page + line) % what.len()], 760 - 20 * line);
            content += &format!(
                "BT /F1 12 Tf 72 {height} Td (Part {line} of chapter {page} tells how to return {what}.) Tj ET\n"
            );
        }
        objects.push(format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()));
    }
    let mut out = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    for (number, object) in (1..).zip(&objects) {
        places.push(out.len());
        out.extend(format!("{number} 0 obj\n{object}\nendobj\n").bytes());
    }
    let table = out.len();
    out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", places.len() + 1).bytes());
    for place in &places {
        out.extend(format!("{place:010} 00000 n \n").bytes());
    }
    let at = if broken { 7 } else { table };
    let size = places.len() + 1;
    out.extend(
        format!("trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{at}\n%%EOF\n").bytes(),
    );
    out
}

/// Address space within which ordinary large files must be read.
const MODEST: u64 = 768 << 20;

#[test]
fn three_hundred_pages_even_without_their_table_of_objects() {
    let dir = tempfile::tempdir().unwrap();
    for broken in [false, true] {
        let path = written(dir.path(), "long.pdf", &pdf(300, broken));
        let modest = Limits { memory_bytes: MODEST, ..limits() };
        let document = read_document(&path, &modest).unwrap();
        let text = document.text();
        assert!(text.contains("Part 34 of chapter 299 tells"), "broken: {broken}");
        assert!(!text.contains("Manual of the shop"), "running heads are left out");
        assert_eq!(document.blocks.last().unwrap().page, Some(300));
        assert_eq!(document.notes, [""; 0]);
    }
}

fn zipped(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in parts {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn docx(body: &str) -> Vec<u8> {
    let styles = r#"<w:styles xmlns:w="w">
        <w:style w:styleId="1"><w:name w:val="heading 1"/></w:style>
        <w:style w:styleId="a"><w:name w:val="我的二级"/><w:basedOn w:val="b"/></w:style>
        <w:style w:styleId="b"><w:name w:val="基础"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
        <w:style w:styleId="T1"><w:name w:val="toc 1"/></w:style></w:styles>"#;
    let numbering = r#"<w:numbering xmlns:w="w"><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0">
        <w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl></w:abstractNum>
        <w:num w:numId="5"><w:abstractNumId w:val="0"/></w:num></w:numbering>"#;
    let document = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?><w:document xmlns:w="w" xmlns:mc="mc"><w:body>{body}</w:body></w:document>"#
    );
    zipped(&[
        ("word/document.xml", document.as_bytes()),
        ("word/styles.xml", styles.as_bytes()),
        ("word/numbering.xml", numbering.as_bytes()),
    ])
}

const BODY: &str = r#"
    <w:p><w:pPr><w:pStyle w:val="T1"/></w:pPr><w:r><w:t>退货 …… 1</w:t></w:r></w:p>
    <w:p><w:pPr><w:pStyle w:val="1"/></w:pPr><w:r><w:t>退货 &amp; 退款</w:t></w:r></w:p>
    <w:p><w:pPr><w:pStyle w:val="a"/></w:pPr><w:r><w:t>期限</w:t></w:r></w:p>
    <w:p><w:r><w:t xml:space="preserve">七天内</w:t></w:r><w:del><w:r><w:delText>三十天</w:delText><w:t>旧</w:t></w:r></w:del>
      <w:ins><w:r><w:t>可退。</w:t></w:r></w:ins><w:r><w:rPr><w:vanish/></w:rPr><w:t>暗</w:t></w:r></w:p>
    <w:p><w:r><w:t>步骤如下：</w:t></w:r></w:p>
    <w:p><w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="5"/></w:numPr></w:pPr><w:r><w:t>打开订单</w:t></w:r></w:p>
    <w:p><w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="5"/></w:numPr></w:pPr><w:r><w:t>点击退货</w:t></w:r></w:p>
    <w:tbl><w:tr><w:tc><w:p><w:r><w:t>地区</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>运费</w:t></w:r></w:p></w:tc></w:tr>
      <w:tr><w:tc><w:tcPr><w:vMerge w:val="restart"/></w:tcPr><w:p><w:r><w:t>江浙沪</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>8元</w:t></w:r></w:p></w:tc></w:tr>
      <w:tr><w:tc><w:tcPr><w:vMerge/></w:tcPr><w:p/></w:tc><w:tc><w:p><w:r><w:t>加急12元</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"#;

#[test]
fn word_documents() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), "手册.docx", &docx(BODY));
    assert_eq!(kind(&path).unwrap(), FileKind::Docx);
    let document = read_document(&path, &limits()).unwrap();
    assert_eq!(document.title, "退货 & 退款");
    assert_eq!(
        blocks(&document),
        [
            (BlockKind::Heading(1), "退货 & 退款"),
            (BlockKind::Heading(2), "期限"),
            (BlockKind::Paragraph, "七天内可退。"),
            (BlockKind::Paragraph, "步骤如下："),
            (BlockKind::ListItem, "1. 打开订单"),
            (BlockKind::ListItem, "2. 点击退货"),
            (BlockKind::TableRow, "地区: 江浙沪; 运费: 8元"),
            (BlockKind::TableRow, "地区: 江浙沪; 运费: 加急12元"),
        ]
    );
    let passages = passages(&document);
    assert_eq!(passages.len(), 1);
    assert_eq!(passages[0].heading_path, ["退货 & 退款", "期限"]);
}

#[test]
fn hostile_and_damaged_files_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let reason = refusal(read_document(&written(dir.path(), name, bytes), &limits()));
        assert_eq!(reason.lines().count(), 1, "{reason}");
        reason
    };
    let bomb = zipped(&[("word/document.xml", &vec![b' '; 64 << 20])]);
    assert!(bomb.len() < 1 << 20);
    assert!(refused("bomb.docx", &bomb).contains("times its size"));
    let entities = r#"<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]><w:document><w:p><w:r><w:t>&c;</w:t></w:r></w:p></w:document>"#;
    let entities = zipped(&[("word/document.xml", entities.as_bytes())]);
    assert!(refused("entities.docx", &entities).contains("defines its own XML"));
    let whole = docx(BODY);
    assert!(refused("cut.docx", &whole[..whole.len() / 2]).contains("damaged"));
    assert!(refused("empty.md", b" \n\n ").contains("holds no text"));
    assert!(refused("pages.pdf", &pdf(0, false)).contains("PDF"));
    assert!(refused("rows.csv", b"a,b\n").contains("import it as knowledge"));
    let nest = "<w:p>".repeat(100_000);
    assert!(refused("deep.docx", &docx(&nest)).contains("deeper"));
}

#[test]
fn a_reader_that_takes_too_much_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), "long.pdf", &pdf(300, false));
    let small = Limits { memory_bytes: 64 << 20, ..limits() };
    assert!(read_document(&path, &small).is_err());
    // A program that never says anything stands for a parser that loops.
    let script = dir.path().join("loop");
    fs::write(&script, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hasty = Limits { program: script, wall: Duration::from_millis(300), ..limits() };
    let clock = Stopwatch::start();
    let reason = refusal(read_document(&path, &hasty));
    assert!(reason.contains("could not be read within"), "{reason}");
    assert!(clock.elapsed() < Duration::from_secs(60));
    // One that says too much.
    let loud = dir.path().join("loud");
    fs::write(&loud, "#!/bin/sh\nexec yes '{\"note\":\"x\"}'\n").unwrap();
    fs::set_permissions(&loud, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bounded = Limits { program: loud, output_bytes: 1 << 20, ..limits() };
    assert!(read_document(&path, &bounded).is_err());
}

/// As people fill them in: a title above, merged cells, dates, money, hidden and empty sheets.
fn workbook() -> Vec<u8> {
    use rust_xlsxwriter::{ExcelDateTime, Format, Workbook};
    let mut book = Workbook::new();
    let sheet = book.add_worksheet().set_name("售后").unwrap();
    let date = Format::new().set_num_format("yyyy/m/d");
    let money = Format::new().set_num_format("¥#,##0.00");
    let percent = Format::new().set_num_format("0.0%");
    sheet.merge_range(0, 0, 0, 3, "常见问题汇总", &Format::new()).unwrap();
    for (column, name) in (0..).zip(["序号", "标准问", "答案", "相似问1", "相似问2", "生效日期"])
    {
        sheet.write(2, column, name).unwrap();
    }
    sheet.write(3, 0, 1).unwrap();
    sheet.write(3, 1, "怎么退货").unwrap();
    sheet.write(3, 2, "七天内\n在订单页申请。").unwrap();
    sheet.write(3, 3, "想退").unwrap();
    sheet.write(3, 4, "退货流程").unwrap();
    let day = ExcelDateTime::from_ymd(2026, 1, 31).unwrap();
    sheet.write_with_format(3, 5, &day, &date).unwrap();
    sheet.write(5, 1, "运费多少").unwrap();
    sheet.write_with_format(5, 2, 1234.5, &money).unwrap();
    sheet.write(6, 1, "手续费多少").unwrap();
    sheet.write_with_format(6, 2, 0.006, &percent).unwrap();
    sheet.write(7, 1, "可以吗").unwrap();
    sheet.write(7, 2, true).unwrap();
    book.add_worksheet().set_name("空").unwrap();
    let hidden = book.add_worksheet().set_name("备用").unwrap();
    hidden.set_hidden(true).write(0, 0, "内部").unwrap();
    book.save_to_buffer().unwrap()
}

#[test]
fn workbooks_of_questions() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), "faq.xlsx", &workbook());
    assert_eq!(kind(&path).unwrap(), FileKind::Workbook);
    let sheets = preview(&path, &limits()).unwrap();
    assert_eq!(sheets.len(), 1);
    assert_eq!((sheets[0].sheet.as_str(), sheets[0].header_row), ("售后", Some(3)));
    let fields: Vec<_> = sheets[0].columns.iter().map(|c| c.field.clone()).collect();
    let expected = ["question", "answer", "similar_questions", "similar_questions", "valid_from"];
    assert_eq!(fields[0], None);
    assert_eq!(fields[1..], expected.map(|field| Some(field.to_owned())));
    let rows = &read_sheets(&path, &limits()).unwrap()[0].rows;
    assert_eq!(rows[2].1[5], "2026-01-31");
    assert_eq!(rows[3], (6, vec![String::new(), "运费多少".into(), "¥1,234.50".into()]));
    assert_eq!(rows[4].1[2], "0.6%");
    assert_eq!(rows[5].1[2], "TRUE");
    let entries = huida::ingest::read_entries_within(&path, &limits()).unwrap();
    assert_eq!(entries.len(), 4);
    assert_eq!(entries[0].similar_questions, ["想退", "退货流程"]);
    assert_eq!(entries[0].answer.as_deref(), Some("七天内\n在订单页申请。"));
    assert_eq!(entries[0].state, EntryState::Published);
    assert!(entries[0].validity.from.is_some());
}

#[test]
fn twenty_sheets_of_prices_are_rows_within_modest_memory() {
    use rust_xlsxwriter::Workbook;
    let mut book = Workbook::new();
    for number in 1..=20 {
        let sheet = book.add_worksheet().set_name(format!("地区{number}")).unwrap();
        sheet.write_row(0, 0, ["商品", "价格", "库存", "说明"]).unwrap();
        for row in 1..2_000 {
            let cells =
                [format!("商品{row}"), format!("{row}元"), "有".into(), "现货，次日发".into()];
            sheet.write_row(row, 0, cells).unwrap();
        }
        // One stray word in the last corner must not cost the whole area.
        sheet.write(1_048_575, 16_383, "x").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), "prices.xlsx", &book.save_to_buffer().unwrap());
    let modest = Limits { memory_bytes: MODEST, ..limits() };
    let document = read_document(&path, &modest).unwrap();
    assert_eq!(document.blocks[0].text, "地区1");
    assert_eq!(document.blocks[1].text, "商品: 商品1; 价格: 1元; 库存: 有; 说明: 现货，次日发");
    assert_eq!(document.blocks.len(), 20 * 2_000);
    let error = refusal(huida::ingest::read_entries_within(&path, &modest));
    assert!(error.contains("sheet 地区1") && error.contains("商品, 价格"), "{error}");
}

#[test]
fn a_workbook_is_read_once_whatever_it_holds() {
    use rust_xlsxwriter::Workbook;
    use std::os::unix::fs::PermissionsExt;
    let mut prices = Workbook::new();
    let sheet = prices.add_worksheet();
    sheet.write_row(0, 0, ["商品", "价格"]).unwrap();
    sheet.write_row(1, 0, ["滤网", "30元"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let questions = written(dir.path(), "faq.xlsx", &workbook());
    let prices = written(dir.path(), "prices.xlsx", &prices.save_to_buffer().unwrap());
    // Stands before the binary and counts its calls.
    let calls = dir.path().join("calls");
    let script = format!(
        "#!/bin/sh\necho called >> '{}'\nexec '{}' \"$@\"\n",
        calls.display(),
        env!("CARGO_BIN_EXE_huida")
    );
    let program = written(dir.path(), "counted", script.as_bytes());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let limits = Limits { program, ..limits() };
    let Knowledge::Entries(entries) = read_knowledge(&questions, &limits).unwrap() else {
        panic!("a table of questions is no document");
    };
    assert_eq!((entries.len(), fs::read_to_string(&calls).unwrap().lines().count()), (4, 1));
    let Knowledge::Document { passages, .. } = read_knowledge(&prices, &limits).unwrap() else {
        panic!("a table of prices is a document");
    };
    assert_eq!((passages.len(), fs::read_to_string(&calls).unwrap().lines().count()), (1, 2));
}

/// Whatever the bytes, the answer is a document or one line of refusal, in time.
#[test]
fn mutated_files_end_within_limits() {
    let dir = tempfile::tempdir().unwrap();
    let originals: Vec<(&str, Vec<u8>)> = vec![
        ("a.pdf", fs::read(fixture("embedded.pdf")).unwrap()),
        ("b.pdf", fs::read(fixture("not_embedded.pdf")).unwrap()),
        ("c.docx", docx(BODY)),
        ("d.xlsx", workbook()),
        ("e.html", "<html><table><tr><td rowspan=9>a<td colspan=9>b</table><ul><li>c".into()),
        ("f.md", "# a\n|b|c|\n|-|-|\n|d|e|\n\n1. f\n> g\n<div>h".into()),
    ];
    let random = prop::collection::vec(any::<u8>(), 0..2_000);
    let change = (0..originals.len(), any::<prop::sample::Index>(), random, any::<bool>());
    let mut runner =
        TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    runner
        .run(&change, |(which, at, noise, cut)| {
            let (name, original) = &originals[which];
            let mut bytes = original.clone();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            }
            for (n, byte) in noise.iter().take(20).enumerate() {
                let place = (at + n * 97) % bytes.len().max(1);
                if let Some(there) = bytes.get_mut(place) {
                    *there = *byte;
                }
            }
            let path = written(dir.path(), name, &bytes);
            if let Err(error) = read_document(&path, &limits()) {
                prop_assert_eq!(error.to_string().lines().count(), 1);
            }
            let path = written(dir.path(), name, &noise);
            prop_assert!(
                read_document(&path, &limits()).is_err()
                    || name.ends_with("ml")
                    || name.ends_with("md")
            );
            Ok(())
        })
        .unwrap();
}
