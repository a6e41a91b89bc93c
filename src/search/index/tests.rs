//! A small shop's knowledge with synthetic vectors: what is found, hidden, refused.

use std::fs;

use super::*;
use crate::domain::knowledge::{Entry, EntryState};
use crate::domain::message::AccountName;
use crate::search::layers::{Changes, Layers};
use crate::search::sample::clustered;
use proptest::prelude::*;

/// Topic (an axis of the vectors), question, similar questions, answer.
const KNOWLEDGE: [(usize, &str, &[&str], &str); 12] = [
    (0, "怎么申请退款", &["我想退款", "钱能退回来吗"], "在订单页点申请退款,三天内处理。"),
    (1, "退款多久到账", &["退的钱什么时候到"], "原路退回,一到五个工作日到账。"),
    (2, "怎么开发票", &["能开电子发票吗", "要一张发票"], "在订单详情里点开具发票。"),
    (3, "发票抬头写错了怎么办", &["发票可以改吗"], "未入账的发票可以作废重开。"),
    (4, "快递几天能到", &["什么时候送到"], "一般两到四天送达。"),
    (5, "怎么查物流", &["我的包裹到哪了"], "在我的订单里点查看物流。"),
    (6, "可以换货吗", &["尺码不合适想换"], "七天内不影响销售可以换货。"),
    (7, "会员有什么好处", &["vip有什么权益"], "会员享九五折和生日礼。"),
    (8, "怎么修改收货地址", &["地址填错了"], "未发货前可在订单页修改地址。"),
    (9, "优惠券怎么用", &["券用不了"], "结算时勾选可用的优惠券。"),
    (10, "门店几点开门", &["周末营业吗"], "每天十点到二十二点营业。"),
    (11, "忘记密码怎么办", &["登录不上"], "在登录页点忘记密码重设。"),
];
const DIM: usize = 14;

/// A unit vector near axis `topic`, like others of the same topic but not equal to them.
fn near(topic: usize, variant: usize) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    vector[topic] = 1.0;
    vector[12] = 2.0;
    vector[(topic + variant) % 12] += 0.3 * variant as f32;
    normalise(&mut vector);
    vector
}

fn embedded(text: &str, topic: usize, variant: usize) -> Embedded {
    Embedded { text: text.to_owned(), vector: near(topic, variant) }
}

fn knowledge() -> (Vec<VersionedEntry>, Vec<EntryTexts>) {
    let entry = |&(topic, question, similar, answer): &(usize, &str, &[&str], &str)| {
        let entry = Entry {
            similar_questions: similar.iter().map(ToString::to_string).collect(),
            answer: Some(answer.to_owned()),
            ..Entry::new(EntryId(format!("shop.{topic}")), question.to_owned())
        };
        let phrasings = entry.phrasings().enumerate().map(|(v, t)| embedded(t, topic, v));
        let phrasings = phrasings.collect();
        let texts = EntryTexts { phrasings, answer: Some(embedded(answer, topic, 5)) };
        (VersionedEntry { version: 3, entry }, texts)
    };
    KNOWLEDGE.iter().map(entry).unzip()
}

fn space() -> VectorSpace {
    VectorSpace { model: "synthetic".into(), sha256: "00".into(), dim: DIM }
}

fn build(
    entries: &[VersionedEntry],
    texts: &[EntryTexts],
) -> Result<(tempfile::TempDir, KnowledgeIndex), SearchError> {
    let dir = tempfile::tempdir().unwrap();
    KnowledgeIndex::build(dir.path(), entries, texts, &space(), &Synonyms::default())?;
    let index = KnowledgeIndex::open(dir.path())?;
    Ok((dir, index))
}

fn shop() -> (tempfile::TempDir, KnowledgeIndex) {
    let (entries, texts) = knowledge();
    build(&entries, &texts).unwrap()
}

fn query<'a>(text: &'a str, vector: &'a [f32]) -> Query<'a> {
    Query { text, vector, k: 5, exclude: Exclude::None, now: 0, asker: None, head: None, kin: None }
}

/// With nothing hidden.
fn search(index: &KnowledgeIndex, query: &Query<'_>) -> Result<Vec<Candidate>, SearchError> {
    index.search(query, &HashSet::new())
}

fn order(found: &[Candidate]) -> Vec<u32> {
    found.iter().map(|c| c.entry).collect()
}

#[test]
fn finds_by_meaning_and_by_wording() {
    let (_dir, index) = shop();
    let found = search(&index, &query("能开电子发票吗", &near(2, 1))).unwrap();
    let evidence = index.evidence(&found[0], None).unwrap();
    assert_eq!((evidence.id.as_str(), evidence.version), ("shop.2", 3));
    assert_eq!(evidence.phrasing, "能开电子发票吗");
    assert!((evidence.scores.lexical.unwrap() - 1.0).abs() < 1e-4);
    assert!((evidence.scores.dense.unwrap() - 1.0).abs() < 1e-4);
    assert_eq!(found.len(), 5);
    assert!(found.is_sorted_by(|a, b| a.scores.fused >= b.scores.fused));
    // Meaning alone, wording alone.
    assert_eq!(search(&index, &query("qwerty", &near(9, 0))).unwrap()[0].entry, 9);
    assert_eq!(search(&index, &query("门店几点开门", &[0.0; DIM])).unwrap()[0].entry, 10);
}

#[test]
fn the_same_question_gets_the_same_answer() {
    let ((_d1, one), (_d2, two)) = (shop(), shop());
    assert_eq!(one.manifest().entries_digest, two.manifest().entries_digest);
    let vector = near(4, 2);
    let ask = |index: &KnowledgeIndex| search(index, &query("退款几天到", &vector)).unwrap();
    assert_eq!(ask(&one), ask(&one));
    assert_eq!(ask(&one), ask(&two));
}

#[test]
fn ties_stand_in_the_order_of_the_generation() {
    let (_dir, index) = shop();
    let found = search(&index, &query("", &[0.0; DIM])).unwrap();
    assert_eq!(order(&found), [0, 1, 2, 3, 4]);
    assert_eq!(found[0].scores.lexical, None);
}

#[test]
fn any_k_and_a_single_character() {
    let (_dir, index) = shop();
    let vector = near(0, 0);
    let all = search(&index, &Query { k: 99, ..query("退", &vector) }).unwrap();
    assert_eq!((all.len(), all[0].entry), (12, 0));
    assert!(search(&index, &Query { k: 0, ..query("退", &vector) }).unwrap().is_empty());
}

/// Many entries of five phrasings each on made-up vectors, with words that some share.
fn many() -> (tempfile::TempDir, KnowledgeIndex) {
    const ENTRIES: usize = 600;
    let (entries, texts) = knowledge();
    let vectors = clustered(ENTRIES * 6, DIM, 11);
    let entry = |at: usize| {
        let mut versioned = entries[at % entries.len()].clone();
        versioned.entry.id = EntryId(format!("many.{at}"));
        versioned.entry.similar_questions = (1..5).map(|n| format!("{at}之{n}")).collect();
        if at.is_multiple_of(7) {
            versioned.entry.validity = Validity { from: Some(100), until: None };
        }
        versioned
    };
    let text = |at: usize| {
        let embedded = |n: usize, text: &str| Embedded {
            text: text.to_owned(),
            vector: vectors.row(at * 6 + n).to_vec(),
        };
        let question = &texts[at % texts.len()].phrasings[0].text;
        let similar = (1..5).map(|n| embedded(n, &format!("{at}之{n}")));
        EntryTexts {
            phrasings: [embedded(0, question)].into_iter().chain(similar).collect(),
            answer: texts[at % texts.len()].answer.as_ref().map(|a| embedded(5, &a.text)),
        }
    };
    let entries: Vec<_> = (0..ENTRIES).map(entry).collect();
    build(&entries, &(0..ENTRIES).map(text).collect::<Vec<_>>()).unwrap()
}

#[test]
fn so_many_that_a_pool_is_ranked_give_what_all_give() {
    let (_dir, index) = many();
    let classes: Vec<String> = index.entries().iter().map(|e| e.entry.id.0.clone()).collect();
    let votes: Vec<f32> = (0..classes.len()).map(|e| (e % 3) as f32 / 30.0).collect();
    let vectors = index.phrasing_vectors().unwrap();
    let mut asked = Vec::new();
    for (text, row) in [("能开电子发票吗", 200), ("怎么查物流", 501), ("qwerty", 905), ("", 0)]
    {
        for exclude in [Exclude::None, Exclude::Phrasing(row), Exclude::Entry(row / 5)] {
            asked.push((text, vectors.row(row as usize), exclude));
        }
    }
    let queries = asked.iter().flat_map(|&(text, vector, exclude)| {
        let head = [None, Some((classes.as_slice(), votes.as_slice()))];
        head.map(|head| Query { exclude, head, k: 10, ..query(text, vector) })
    });
    let queries: Vec<Query<'_>> = queries.collect();
    let ask = |query: &Query<'_>| search(&index, query).unwrap();
    let all: Vec<_> = queries.iter().map(ask).collect();
    let check = || {
        for (query, all) in queries.iter().zip(&all) {
            let lists = index.lists(query).unwrap();
            assert!(lists.dense.is_none());
            let allowed = |entry| index.is_allowed(entry, query);
            let pool = index.pool(&lists, query, &allowed);
            assert!((POOL..index.entries().len() / 2 + POOL).contains(&pool.len()), "{query:?}");
            assert!(pool.iter().all(|&entry| allowed(entry)));
            assert_eq!(ask(query), *all);
        }
    };
    index.dense.grow(1);
    index.dense.settle();
    assert!(index.answer_dense.scores(&[0.0; DIM]).is_some(), "one list is still scanned");
    check();
    index.answer_dense.grow(1);
    index.answer_dense.settle();
    check();
}

#[test]
fn a_pool_counts_entries_and_not_their_phrasings() {
    let (mut entries, mut texts) = knowledge();
    // A first entry with more phrasings than a pool has places, all of them nearest.
    let crowd: Vec<String> = (0..POOL * 2).map(|n| format!("退款{n}")).collect();
    texts[0].phrasings.truncate(1);
    texts[0].phrasings.extend(crowd.iter().map(|text| embedded(text, 0, 0)));
    entries[0].entry.similar_questions = crowd;
    let (_dir, index) = build(&entries, &texts).unwrap();
    index.dense.grow(1);
    index.dense.settle();
    let vector = near(0, 0);
    let query = Query { k: 12, ..query("退款", &vector) };
    assert_eq!(search(&index, &query).unwrap().len(), 12);
    let hidden = Query { exclude: Exclude::Entry(0), ..query };
    assert_eq!(search(&index, &hidden).unwrap().len(), 11);
}

#[test]
fn exclusion_hides_what_was_asked_to_be_hidden() {
    let (_dir, index) = shop();
    let vector = index.phrasing_vectors().unwrap().row(1).to_vec();
    let ask = |exclude| search(&index, &Query { exclude, ..query("我想退款", &vector) }).unwrap();
    assert_eq!((ask(Exclude::None)[0].entry, ask(Exclude::None)[0].phrasing), (0, 1));
    let without = ask(Exclude::Phrasing(1));
    let seen = without.iter().find(|c| c.entry == 0).unwrap();
    let full = ask(Exclude::None)[0];
    assert_ne!(seen.phrasing, 1);
    assert!(seen.scores.dense < full.scores.dense && seen.scores.lexical < full.scores.lexical);
    let lists = index.lists(&query("我想退款", &vector)).unwrap();
    assert!(index.profile(0, Some(1), &lists) < index.profile(0, None, &lists));
    assert!(ask(Exclude::Entry(0)).iter().all(|c| c.entry != 0));
}

#[test]
fn an_entry_without_phrasings_left_is_out() {
    let (mut entries, mut texts) = knowledge();
    entries[6].entry.similar_questions.clear();
    texts[6].phrasings.truncate(1);
    let (_dir, index) = build(&entries, &texts).unwrap();
    let only = index.phrasings_of(6).start;
    let ask = |exclude| {
        let vector = near(6, 0);
        let query = Query { exclude, k: 12, ..query("可以换货吗", &vector) };
        order(&search(&index, &query).unwrap())
    };
    assert_eq!(ask(Exclude::None)[0], 6);
    assert!(!ask(Exclude::Phrasing(only)).contains(&6));
}

#[test]
fn only_valid_entries_answer() {
    let (mut entries, texts) = knowledge();
    entries[9].entry.validity = Validity { from: Some(100), until: Some(200) };
    let (_dir, index) = build(&entries, &texts).unwrap();
    let vector = near(9, 0);
    for (now, expected) in [(99, false), (100, true), (199, true), (200, false)] {
        let found = search(&index, &Query { now, ..query("优惠券怎么用", &vector) }).unwrap();
        assert_eq!(found[0].entry == 9, expected, "at {now}");
        assert_eq!(order(&found).contains(&9), expected, "at {now}");
    }
}

#[test]
fn the_head_votes_by_name() {
    let (_dir, index) = shop();
    let classes = ["shop.3", "gone", "shop.1"].map(String::from);
    let head = (classes.as_slice(), [0.7, 0.2, 0.1].as_slice());
    let votes = index.votes(head);
    assert_eq!((votes[3], votes[1], votes.iter().sum::<f32>()), (0.7, 0.1, 0.8));
    let vector = [0.0; DIM];
    let found = search(&index, &Query { head: Some(head), ..query("", &vector) }).unwrap();
    assert_eq!(order(&found)[..2], [3, 1]);
    assert_eq!(found[0].scores.head, Some(0.7));
}

#[test]
fn knowledge_may_be_empty_or_without_answers() {
    let (_dir, index) = build(&[], &[]).unwrap();
    assert!(search(&index, &query("退款", &near(0, 0))).unwrap().is_empty());
    let (mut entries, mut texts) = knowledge();
    entries.iter_mut().for_each(|e| e.entry.answer = None);
    texts.iter_mut().for_each(|t| t.answer = None);
    let (_dir, index) = build(&entries, &texts).unwrap();
    let found = search(&index, &query("怎么查物流", &near(5, 0))).unwrap();
    assert_eq!(found[0].entry, 5);
}

#[test]
fn refuses_what_does_not_fit() {
    let refuse = |change: &dyn Fn(&mut Vec<VersionedEntry>, &mut Vec<EntryTexts>)| {
        let (mut entries, mut texts) = knowledge();
        change(&mut entries, &mut texts);
        match build(&entries, &texts) {
            Err(SearchError::BadInput(reason)) => reason,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("was built"),
        }
    };
    assert_eq!(
        refuse(&|e, _| e[1].entry.state = EntryState::Draft),
        "entry shop.1: is not published"
    );
    assert_eq!(refuse(&|e, _| e[2] = e[1].clone()), "entry shop.1: is there twice");
    assert!(refuse(&|_, t| t[0].phrasings.truncate(2)).contains("another number of phrasings"));
    assert!(refuse(&|_, t| t[0].answer = None).contains("an answer without text"));
    assert!(refuse(&|_, t| t.truncate(3)).contains("3 texts for 12 entries"));
    assert!(refuse(&|_, t| t[4].phrasings[0].vector.truncate(3)).contains("3 wide"));
    let (dir, index) = shop();
    let (entries, texts) = knowledge();
    let again = KnowledgeIndex::build(dir.path(), &entries, &texts, &space(), &Synonyms::default());
    assert!(matches!(again, Err(SearchError::BadInput(_))));
    let narrow = search(&index, &query("退款", &[1.0]));
    assert!(matches!(narrow, Err(SearchError::BadInput(_))));
    let vector = near(0, 0);
    let classes = ["shop.0", "shop.1"].map(String::from);
    let few = Some((classes.as_slice(), [0.5].as_slice()));
    let few = search(&index, &Query { head: few, ..query("退款", &vector) });
    assert!(matches!(few, Err(SearchError::BadInput(_))));
}

#[test]
fn damage_to_any_file_is_noticed() {
    let (dir, index) = shop();
    let files: Vec<String> = index.manifest().files.keys().cloned().collect();
    drop(index);
    assert!(files.len() > 8, "{files:?}");
    for name in files {
        let path = dir.path().join(&name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        match bad.last_mut() {
            Some(byte) => *byte ^= 1,
            None => bad.push(0),
        }
        fs::write(&path, bad).unwrap();
        let error = KnowledgeIndex::open(dir.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, SearchError::Corrupt { .. }), "{name}: {error}");
        fs::remove_file(&path).unwrap();
        let error = KnowledgeIndex::open(dir.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, SearchError::Io { .. }), "{name}: {error}");
        fs::write(&path, good).unwrap();
    }
    assert!(KnowledgeIndex::open(dir.path()).is_ok());
}

#[test]
fn another_format_is_told_from_damage() {
    let (dir, index) = shop();
    drop(index);
    let path = dir.path().join("manifest.json");
    fs::write(&path, r#"{"format": 999, "new": true}"#).unwrap();
    let error = KnowledgeIndex::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, SearchError::Incompatible { .. }), "{error}");
    fs::write(&path, "{").unwrap();
    let error = KnowledgeIndex::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, SearchError::Corrupt { .. }), "{error}");
}

proptest! {
    #[test]
    fn no_text_is_an_error(text in ".{0,40}") {
        static SHOP: std::sync::LazyLock<(tempfile::TempDir, KnowledgeIndex)> =
            std::sync::LazyLock::new(shop);
        let vector = near(1, 0);
        let found = search(&SHOP.1, &query(&text, &vector)).unwrap();
        prop_assert_eq!(found.len(), 5);
    }
}

#[test]
fn changes_searched_beside_find_what_a_rebuild_finds() {
    let (mut entries, mut texts) = knowledge();
    // As it was built: without the last entry, and with the first in other words.
    let last = (entries.pop().unwrap(), texts.pop().unwrap());
    let first = (entries[0].clone(), texts[0].clone());
    entries[0].entry.answer = Some("旧答案。".into());
    entries[0].version = 2;
    let (_built, base) = build(&entries, &texts).unwrap();
    let layers = Layers::of(Arc::new(base));
    let (fresh, fresh_texts): (Vec<_>, Vec<_>) = [first, last].into_iter().unzip();
    let folder = tempfile::tempdir().unwrap();
    let synonyms = Synonyms::default();
    KnowledgeIndex::build(folder.path(), &fresh, &fresh_texts, &space(), &synonyms).unwrap();
    let index = KnowledgeIndex::open_beside(folder.path(), Arc::clone(layers.base())).unwrap();
    let layers = layers.with(HashSet::from([0]), Some(Changes { index, folder }));
    assert_eq!((layers.entries().count(), layers.changed()), (12, 2));

    let (_dir, whole) = shop();
    for (topic, question, _, answer) in KNOWLEDGE {
        let vector = near(topic, 1);
        let asked = Query { k: 3, ..query(question, &vector) };
        let found = layers.search(&asked).unwrap();
        let rebuilt = search(&whole, &asked).unwrap();
        let rebuilt = whole.evidence(&rebuilt[0], None).unwrap();
        assert_eq!((&found[0].id, found[0].version), (&rebuilt.id, 3), "{question}");
        assert_eq!(found[0].answer.as_deref(), Some(answer));
        assert!((found[0].scores.fused - rebuilt.scores.fused).abs() < 0.25, "{question}");
        let mut ids: Vec<_> = found.iter().map(|e| &e.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3, "no entry is there twice");
    }
}

#[test]
fn entries_that_say_the_same_count_once_and_by_the_best() {
    let (mut entries, mut texts) = knowledge();
    // The twelfth and thirteenth say in the first topic's answer what the first says.
    for (topic, account) in [(12, None), (13, Some("kf"))] {
        let (mut entry, text) = (entries[0].clone(), texts[0].clone());
        entry.entry.id = EntryId(format!("shop.{topic}"));
        let wording = |account: &str| (AccountName(account.into()), "另一种说法".to_owned());
        entry.entry.wordings.extend(account.map(wording));
        entries.push(entry);
        texts.push(text);
    }
    let (_dir, index) = build(&entries, &texts).unwrap();
    let vector = near(0, 0);
    let all = search(&index, &query("怎么申请退款", &vector)).unwrap();
    assert_eq!(order(&all)[..3], [0, 12, 13]);
    let answers = |hidden| {
        let query = query("怎么申请退款", &vector);
        index.search_answers(&query, &hidden).unwrap()
    };
    let found = answers(HashSet::new());
    assert_eq!(order(&found)[..2], [0, 13], "the one with another wording says something else");
    assert!(!order(&found).contains(&12));
    assert_eq!(found.len(), 5, "others take the place");
    assert!(index.says_same(0, 12) && !index.says_same(0, 13) && !index.says_same(0, 1));
    assert_eq!(order(&answers(HashSet::from([0])))[..2], [12, 13], "what is hidden hides no other");
}
