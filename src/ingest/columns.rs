//! The names under which an entry's fields and their words appear in files, English and Chinese.

use crate::domain::knowledge::{Audience, Domain, EntryState, Level, Nature, Scene, Tone};

pub(super) const ID: &str = "id";
pub(super) const QUESTION: &str = "question";
pub(super) const SIMILAR: &str = "similar_questions";
pub(super) const ANSWER: &str = "answer";
pub(super) const SCENE: &str = "scene";
pub(super) const LEVEL: &str = "level";
pub(super) const PARENT: &str = "parent";
pub(super) const TONE: &str = "tone";
pub(super) const DOMAIN: &str = "domain";
pub(super) const FROM: &str = "valid_from";
pub(super) const UNTIL: &str = "valid_until";
pub(super) const STATE: &str = "state";
pub(super) const NATURE: &str = "nature";
pub(super) const QUALIFICATIONS: &str = "qualifications";
pub(super) const AUDIENCES: &str = "audiences";
pub(super) const ACCOUNTS: &str = "accounts";
/// In JSON an object by account; in a table a column `answer@ACCOUNT` for each.
pub(super) const WORDINGS: &str = "wordings";

/// All fields in the order in which they are exported.
pub(super) const ALL: [&str; 17] = [
    ID,
    QUESTION,
    SIMILAR,
    ANSWER,
    SCENE,
    LEVEL,
    PARENT,
    TONE,
    DOMAIN,
    FROM,
    UNTIL,
    STATE,
    NATURE,
    QUALIFICATIONS,
    AUDIENCES,
    ACCOUNTS,
    WORDINGS,
];

/// The field that a header of a table names; `None` for a column we do not read.
pub(super) fn field(header: &str) -> Option<&'static str> {
    let header = header.trim().to_lowercase();
    if let Some(name) = ALL.into_iter().find(|f| *f == header) {
        return Some(name);
    }
    // 相似问1, 相似问2 … are columns of one field.
    match header.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "编号" | "知识编号" => Some(ID),
        "问题" | "标准问题" | "标准问" | "常见问题" | "客户问题" | "问" => {
            Some(QUESTION)
        }
        "相似问题" | "相似问" | "相似问法" | "扩展问" | "相似说法" => {
            Some(SIMILAR)
        }
        "答案" | "回答" | "标准答案" | "答复" | "回复" | "标准回复" | "答" => {
            Some(ANSWER)
        }
        "场景" => Some(SCENE),
        "级别" | "层级" => Some(LEVEL),
        "上级" | "父级" => Some(PARENT),
        "语气" | "情绪" => Some(TONE),
        "领域" => Some(DOMAIN),
        "生效时间" | "生效日期" => Some(FROM),
        "失效时间" | "失效日期" => Some(UNTIL),
        "状态" => Some(STATE),
        "文案性质" | "性质" => Some(NATURE),
        "资质" | "资质编号" | "资质文件" => Some(QUALIFICATIONS),
        "适用客户" | "客户类型" => Some(AUDIENCES),
        "适用账号" | "账号" => Some(ACCOUNTS),
        _ => None,
    }
}

/// The account whose own wording of the answer a table's column holds.
pub(super) fn wording_of(header: &str) -> Option<&str> {
    let header = header.trim();
    let account = header.strip_prefix("answer@").or_else(|| header.strip_prefix("答案@"))?.trim();
    (!account.is_empty()).then_some(account)
}

pub(super) fn audience(word: &str) -> Option<Audience> {
    match word {
        "新客" | "新客户" => Some(Audience::New),
        "普通" | "普通客户" => Some(Audience::Normal),
        "会员" | "贵宾" => Some(Audience::Vip),
        other => Audience::parse(other),
    }
}

pub(super) fn scene(word: &str) -> Option<Scene> {
    match word {
        "咨询" => Some(Scene::Inquiry),
        "投诉" => Some(Scene::Complaint),
        "建议" => Some(Scene::Suggestion),
        "故障" => Some(Scene::Fault),
        other => Scene::parse(other),
    }
}

pub(super) fn level(word: &str) -> Option<Level> {
    match word {
        "一级" | "主" => Some(Level::Primary),
        "二级" | "次" => Some(Level::Secondary),
        other => Level::parse(other),
    }
}

pub(super) fn tone(word: &str) -> Option<Tone> {
    match word {
        "中性" => Some(Tone::Neutral),
        "负面" | "消极" => Some(Tone::Negative),
        "紧急" => Some(Tone::Urgent),
        other => Tone::parse(other),
    }
}

pub(super) fn domain(word: &str) -> Option<Domain> {
    match word {
        "通用" => Some(Domain::General),
        "金融" => Some(Domain::Finance),
        "医疗" => Some(Domain::Medical),
        other => Domain::parse(other),
    }
}

pub(super) fn nature(word: &str) -> Option<Nature> {
    match word {
        "服务" => Some(Nature::Service),
        "营销" | "营销文案" => Some(Nature::Marketing),
        other => Nature::parse(other),
    }
}

pub(super) fn state(word: &str) -> Option<EntryState> {
    match word {
        "草稿" => Some(EntryState::Draft),
        "待审" | "待审核" | "待发布" => Some(EntryState::Pending),
        "已发布" | "发布" => Some(EntryState::Published),
        "已归档" | "归档" => Some(EntryState::Archived),
        other => EntryState::parse(other),
    }
}
