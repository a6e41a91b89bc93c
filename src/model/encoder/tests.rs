use std::sync::LazyLock;

use serde::Deserialize;

use super::*;
use crate::model::manifest::Manifest;
use crate::model::pull::installed_or_pull;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

static GOLDEN: LazyLock<Golden> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../tests/fixtures/e5_golden.json")).unwrap()
});

static E5: LazyLock<BertEncoder> = LazyLock::new(|| {
    let identity = Manifest::builtin().get("e5-small").unwrap().identity();
    BertEncoder::open(&installed_or_pull("e5-small"), identity).unwrap()
});

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn embed(texts: &[&str]) -> Vec<Vec<f32>> {
    let sequences: Vec<Vec<u32>> = texts.iter().map(|text| E5.tokens(text).unwrap()).collect();
    E5.embed(&sequences, &Control::default()).unwrap()
}

#[test]
fn ids_are_those_of_the_reference() {
    assert!(GOLDEN.cases.len() >= 50);
    for case in &GOLDEN.cases {
        let whole = E5.tokens_within(&case.text, usize::MAX).unwrap();
        assert_eq!(whole, case.ids, "{:?}", case.text);
    }
}

#[test]
fn vectors_agree_with_the_reference() {
    let texts: Vec<&str> = GOLDEN.cases.iter().map(|c| c.text.as_str()).collect();
    for (case, vector) in GOLDEN.cases.iter().zip(embed(&texts)) {
        let cosine = cosine(&case.vector, &vector);
        assert!(cosine >= 0.995, "{cosine} for {:?}", case.text);
        let norm: f32 = vector.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-4 && vector.len() == E5.dim());
    }
}

#[test]
fn a_text_has_the_same_vector_alone_and_in_any_company() {
    let texts =
        ["退款多久到账？", "转人工", "七天无理由退货怎么申请", "转人工", "退款什麼時候會到賬？"];
    for (text, together) in texts.iter().zip(embed(&texts)) {
        assert_eq!(embed(&[text]), [together], "{text}");
    }
}

#[test]
fn meaning_outweighs_wording() {
    let v = embed(&["退款多久到账", "退的钱什么时候能收到", "可以开发票吗"]);
    assert!(cosine(&v[0], &v[1]) > cosine(&v[0], &v[2]) + 0.02);
}

#[test]
fn over_long_texts_are_cut_at_the_window() {
    let long = "退款多久到账？".repeat(400);
    let ids = E5.tokens(&long).unwrap();
    assert_eq!((ids.len(), ids[0], ids[511]), (512, 0, 2));
    let longer = format!("{long}转人工");
    let v = embed(&[&long, &longer]);
    assert!(cosine(&v[0], &v[1]) > 0.99999);
}

#[test]
fn control_pieces_in_a_text_stay_text() {
    for text in ["</s>", "<s>你好</s>", "<pad><mask>"] {
        let ids = E5.tokens(text).unwrap();
        let inner = &ids[1..ids.len() - 1];
        assert!(!inner.iter().any(|id| [0, 1, 2, 250_001].contains(id)), "{text}: {ids:?}");
    }
    assert_eq!(E5.tokens("退\0款").unwrap(), E5.tokens("退款").unwrap());
}

#[test]
fn nothing_in_nothing_out() {
    assert!(embed(&[]).is_empty());
}

#[test]
fn a_cancelled_or_late_caller_is_told_so() {
    let control = Control::default();
    control.cancel();
    let texts = [E5.tokens("转人工").unwrap()];
    assert!(matches!(E5.embed(&texts, &control), Err(ModelError::Cancelled)));
    let late = crate::base::clock::Deadline::after(std::time::Duration::ZERO);
    let late = E5.embed(&texts, &Control::with_deadline(late));
    assert!(matches!(late, Err(ModelError::DeadlinePassed)));
}

#[test]
fn batches_respect_the_budget_and_keep_every_text() {
    let lengths = [3, 500, 512, 512, 512, 512, 3000, 7];
    let order: Vec<usize> = (0..lengths.len()).collect();
    let batches = batches(&order, |i| lengths[i]);
    assert_eq!(batches.concat(), order);
    for batch in &batches {
        let tokens: usize = batch.iter().map(|i| lengths[*i]).sum();
        assert!(tokens <= BATCH_TOKENS || batch.len() == 1, "{batch:?}");
    }
    assert_eq!(batches.len(), 4);
}
