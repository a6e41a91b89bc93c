//! Everything a customer or operator reads, in Chinese and English, in one table.

use crate::domain::decision::{Reason, Verdict};
use crate::domain::delivery::DeliveryState;
use crate::domain::qualification::Standing;
use crate::domain::release::Role;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    Zh,
    En,
}

impl Lang {
    /// Chinese unless the tag says English (`en`, `en-US`).
    pub fn from_tag(tag: &str) -> Self {
        if tag.to_lowercase().starts_with("en") { Self::En } else { Self::Zh }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zh => "zh",
            Self::En => "en",
        }
    }
}

/// Reviewed words that may stand before a piece of evidence: they connect and say nothing.
pub fn connectives(lang: Lang) -> &'static [&'static str] {
    match lang {
        Lang::Zh => &["另外，", "同时，", "此外，"],
        Lang::En => &["Also, ", "In addition, "],
    }
}

macro_rules! texts {
    ($($key:ident $name:literal { $zh:literal, $en:literal })+) => {
        /// A text by name; the name is also its key in page templates.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Text { $($key),+ }

        impl Text {
            pub const ALL: &'static [Self] = &[$(Self::$key),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$key => $name),+ }
            }

            pub fn get(self, lang: Lang) -> &'static str {
                match (self, lang) { $((Self::$key, Lang::Zh) => $zh, (Self::$key, Lang::En) => $en),+ }
            }
        }
    };
}

texts! {
    // What the customer is told.
    Greeting "greeting" { "您好，我是智能客服，请直接告诉我您的问题。", "Hello, I am the service assistant. Please tell me your question." }
    Thanks "thanks" { "不客气，还有问题随时告诉我。", "You are welcome. Write again whenever you have a question." }
    Goodbye "goodbye" { "感谢您的咨询，再见。", "Thank you for writing. Goodbye." }
    Welcome "welcome" { "欢迎关注！有问题请直接发消息给我。", "Welcome! Send a message whenever you have a question." }
    AskForText "ask_for_text" { "没看明白您的意思，请用一句话告诉我您遇到的问题。", "I could not read that. Please tell me your question in one sentence." }
    HandoffCalm "handoff_calm" { "这个问题需要同事为您确认，已转给人工客服，会尽快回复您。", "A colleague has to look into this. I have passed it on and you will hear from us soon." }
    HandoffAsked "handoff_asked" { "好的，正在为您转接人工客服，请稍候。", "Of course. I am passing you on to a colleague, one moment please." }
    HandoffSecurity "handoff_security" { "已为您加急转接人工处理账户安全问题。在此之前请不要向任何人提供密码或验证码。", "Your account's safety comes first: a colleague is taking over with priority. Until then, give no one your password or codes." }
    HandoffComplaint "handoff_complaint" { "非常抱歉给您带来不好的体验，已优先转给人工客服，会尽快联系您处理。", "I am sorry for the trouble. Your complaint has priority with a colleague who will contact you soon." }
    HandoffCare "handoff_care" { "我们很在意您的安全，正在请同事马上联系您。若情况紧急，请立即拨打120或110，或拨打全国心理援助热线12356。", "Your safety matters to us and a colleague is being called right now. In an emergency call 120 or 110 at once, or the support line 12356." }
    HandoffAttachment "handoff_attachment" { "收到您发来的内容了，已转给人工客服查看，请稍候。", "Thank you, I received it. A colleague will look at it, one moment please." }
    HandoffLong "handoff_long" { "这个问题的完整答复较长，一条消息放不下，已请同事发给您，请稍候。", "The full answer does not fit into one message. A colleague will send it to you, one moment please." }
    HandoffWait "handoff_wait" { "预计等待约{minutes}分钟，您可以先把情况补充在这里。", "The wait is about {minutes} min; you can add details here meanwhile." }
    FetchHead "fetch_head" { "正在为您查找，稍后点下面即可查看答复：", "I am looking it up. Tap below in a moment to see the answer:" }
    FetchItem "fetch_item" { "查看答复", "See the answer" }
    FetchGone "fetch_gone" { "这条答复已经不在了，请再问我一次。", "That answer is no longer here. Please ask me again." }
    WelcomeBack "welcome_back" { "欢迎回来！这次有什么可以帮您？", "Welcome back! What can I do for you today?" }
    WelcomeVip "welcome_vip" { "尊敬的会员，欢迎您！请直接说您的需要，我会优先为您处理。", "Welcome, and thank you for being a member. Tell me what you need and it goes first." }
    SurveyHead "survey_head" { "您对这次服务满意吗？", "How was our service?" }
    SurveyGood "survey_good" { "满意", "Good" }
    SurveyFair "survey_fair" { "一般", "Fair" }
    SurveyPoor "survey_poor" { "不满意", "Poor" }
    SurveyReply "survey_reply" { "您对这次服务满意吗？回复数字即可：3 满意，2 一般，1 不满意。", "How was our service? Reply with a number: 3 good, 2 fair, 1 poor." }
    SurveyThanks "survey_thanks" { "谢谢您的评价。", "Thank you for telling us." }

    // Evaluation reports.
    EvalTitle "eval_title" { "评测报告", "Evaluation report" }
    EvalCommand "eval_command" { "命令", "Command" }
    EvalFigure "eval_figure" { "指标", "Figure" }
    EvalAsked "eval_asked" { "要求", "Asked" }
    EvalMeasured "eval_measured" { "实测", "Measured" }
    EvalReached "eval_reached" { "达到", "Reached" }
    EvalMissed "eval_missed" { "未达到", "Missed" }
    EvalAllReached "eval_all_reached" { "全部达到要求。", "Every bound is reached." }
    EvalFailed "eval_failed" { "命令失败", "The command failed" }
    EvalSeconds "eval_seconds" { "用时（秒）", "Seconds" }
    EvalAllFigures "eval_all_figures" { "全部指标", "All figures" }
    EvalCoverage "eval_coverage" { "自动回复占全部消息的比例", "Automatic replies among all messages" }
    EvalPrecision "eval_precision" { "其中答对的比例", "Right ones among them" }
    EvalRiskCurve "eval_risk_curve" { "多答一些，错多少", "What answering more costs" }
    EvalReliability "eval_reliability" { "置信度是否可信", "Is the confidence honest?" }
    EvalConfidence "eval_confidence" { "置信度", "Confidence" }
    EvalRight "eval_right" { "实际答对的比例", "Share that was right" }

    // Who answers for what.
    RoleLegal "role_legal" { "法务", "Legal" }
    RoleBrand "role_brand" { "品牌", "Brand" }
    StandingValid "standing_valid" { "有效", "Valid" }
    StandingNotYet "standing_not_yet" { "未生效", "Not yet valid" }
    StandingExpired "standing_expired" { "已过期", "Expired" }

    // Pages.
    AppName "app_name" { "Huida 回答", "Huida 回答" }
    NavChat "nav_chat" { "对话", "Chat" }
    NavTraces "nav_traces" { "记录", "Traces" }
    NavQueue "nav_queue" { "人工队列", "Queue" }
    OtherLanguage "other_language" { "English", "中文" }
    ChatTitle "chat_title" { "试一试：像客户一样提问", "Try it: ask as a customer would" }
    ChatHint "chat_hint" { "输入消息，回车发送，Shift+回车换行", "Type a message; Enter sends, Shift+Enter breaks the line" }
    Send "send" { "发送", "Send" }
    Why "why" { "这条回复的依据", "Why this reply" }
    NothingYet "nothing_yet" { "发一条消息，这里会显示判断过程。", "Send a message and every step of its decision appears here." }
    DecisionLabel "decision" { "处理", "Decision" }
    ReasonsLabel "reasons" { "原因", "Reasons" }
    ConfidenceLabel "confidence" { "置信度", "Confidence" }
    EvidenceLabel "evidence" { "依据", "Evidence" }
    TimingsLabel "timings" { "耗时（毫秒）", "Time (ms)" }
    StepUnderstand "step_understand" { "理解", "understand" }
    StepEmbed "step_embed" { "向量", "embed" }
    StepRetrieve "step_retrieve" { "检索", "retrieve" }
    StepCompose "step_compose" { "组句", "compose" }
    StepGate "step_gate" { "判断", "gate" }
    DraftVerbatim "draft_verbatim" { "审核过的原文", "approved text as it stands" }
    DraftComposed "draft_composed" { "由依据中的原句组成", "composed of sentences of the evidence" }
    RulesLabel "rules" { "触发的规则", "Rules that fired" }
    UnderstoodLabel "understood" { "理解为", "Understood as" }
    DraftLabel "draft" { "建议答复", "Proposed reply" }
    ObjectionsLabel "objections" { "草稿里不能直接说的话", "What the draft may not say by itself" }
    AnsweredByLabel "answered_by" { "并入这条一起答复", "Answered together with" }
    ReplyLabel "reply" { "已告知客户", "Told the customer" }
    MessageLabel "message" { "客户消息", "Message" }
    TimeLabel "time" { "时间", "Time" }
    ScoreLabel "score" { "分数", "Score" }
    TraceLabel "trace" { "完整记录", "Full trace" }
    GenerationLabel "generation" { "知识版本", "Knowledge generation" }
    ContextLabel "context" { "之前的对话", "Conversation before" }
    QueueEmpty "queue_empty" { "没有等待处理的消息。", "Nothing is waiting." }
    TracesEmpty "traces_empty" { "还没有消息。", "No messages yet." }
    Open "open" { "打开", "Open" }
    Waits "waits" { "已等", "Waiting" }
    Minutes "minutes" { "分钟", "min" }
    OwnerBot "owner_bot" { "机器人在接待", "The bot has the conversation" }
    OwnerPerson "owner_person" { "接待人", "Taken by" }
    OwnerPlatform "owner_platform" { "平台客服在接待", "The platform's own desk has the conversation" }
    OwnedUntil "owned_until" { "到时自动交还", "goes back by itself at" }
    Claim "claim" { "接手", "Take over" }
    Say "say" { "回复客户", "Reply" }
    HandBack "hand_back" { "交还机器人", "Hand back to the bot" }
    PersonalShow "personal_show" { "查看个人信息", "Show personal data" }
    PersonalTitle "personal_title" { "客户原话（查看已记入审计日志）", "As the customer wrote it (the audit log has that you looked)" }
    PersonalMore "personal_more" { "条消息无法解封", "more messages cannot be opened" }
    PersonalNone "personal_none" { "没有保存的个人信息。", "No personal data is kept here." }
    PersonalUnreadable "personal_unreadable" { "这些内容由另一把密钥封存，或之后被改动过，无法查看。", "It was sealed with another key, or changed since, and cannot be shown." }
    Resolve "resolve" { "已解决", "Resolved" }
    YourName "your_name" { "您的名字", "Your name" }
    ReplyHint "reply_hint" { "写给客户的话", "What to tell the customer" }
    UseDraft "use_draft" { "用作回复", "Use as reply" }
    History "history" { "对话", "Conversation" }
    WhyHanded "why_handed" { "为什么转人工", "Why it was handed over" }
    Tried "tried" { "已经尝试过", "What was tried" }
    SendsLeft "sends_left" { "平台还允许发送", "The platform still allows" }
    Messages "messages" { "条", "messages" }
    ClosesAt "closes_at" { "时限到", "until" }
    ClosingSoon "closing_soon" { "回复时限将到或已用完", "The time to reply ends soon, or nothing is left" }
    Unreachable "unreachable" { "这个账号不能主动发消息，请用其他方式联系客户。", "Nothing can be sent on this account: reach the customer another way." }
    Undelivered "undelivered" { "没有送达的回复", "Replies that were not delivered" }
    Rated "rated" { "客户评价", "Rated" }
    Closed "closed" { "已结束", "Closed" }
    CaseGone "case_gone" { "这条已经结束或不存在。", "This case is closed or does not exist." }
    CaseHeld "case_held" { "另一位同事正在接待这位客户。", "Another colleague has this customer." }
    CaseNotHeld "case_not_held" { "您还没有接手，或接手时间已过，请重新接手。", "You have not taken it over, or the time ran out. Take it over again." }
    CaseAtPlatform "case_at_platform" { "客户正在平台客服那里，请在平台上接待。", "The customer is at the platform's own desk. Please answer there." }
    NoWayToCustomer "no_way_to_customer" { "没有途径把消息发给这位客户。", "There is no way to send this customer a message." }
    KeyTooLong "key_too_long" { "幂等键最多 128 个字符。", "A key has at most 128 characters." }
    KeyUsed "key_used" { "这个幂等键已经用于另一条回复。", "This key was used for another reply." }
    EntryUnknown "entry_unknown" { "知识库中没有这个条目。", "There is no such entry." }
    LabelHead "label_head" { "哪个条目能回答（用于训练）", "Which entry answers it (for training)" }
    LabelUnsaid "label_unsaid" { "不标注", "not said" }
    LabelNone "label_none" { "没有条目能回答", "none answers it" }
    StoreAway "store_away" { "暂时无法保存，请稍后再试。", "It cannot be saved right now. Please try again." }
    NameNeeded "name_needed" { "请填写您的名字（不超过64个字）。", "Please enter your name (at most 64 characters)." }
    ReplyEmpty "reply_empty" { "回复不能为空。", "The reply is empty." }
    ReplyTooLong "reply_too_long" { "回复超过平台一条消息的长度，请分成几条。", "The reply is longer than one message of this platform. Send it in parts." }
    StatePending "state_pending" { "待发送", "to be sent" }
    StateOffered "state_offered" { "已随应答发出", "in the answer" }
    StateKept "state_kept" { "等客户点开", "waits for a tap" }
    StateSending "state_sending" { "发送中", "being sent" }
    StateDelivered "state_delivered" { "已送达", "delivered" }
    StateHanded "state_handed" { "未送达", "not delivered" }
    StateDropped "state_dropped" { "未发送", "not sent" }
    PriorityLabel "priority" { "优先级", "Priority" }
    Unpromised "unpromised" { "尚未承诺：现有标注还不足以保证错误率", "Not yet promised: the labels so far do not suffice for it" }
    SelfCalibrated "self_calibrated" { "自校准，尚未承诺：还没有人工标注", "Self-calibrated, not yet promised: no labels so far" }
    Promised "promised" { "承诺：自动回复的错误率上限", "Promise: highest share of wrong automatic replies" }
    PromisedMadeUp "promised_made_up" { "（无答案消息的比例是推定的：还没有这样的标注）", "(the share of messages without an answer is assumed: none is labelled so)" }
    ChangedSince "changed_since" { "条知识在此之后有改动，不在拟合之内；下次构建索引时重新拟合", "entries have changed since and were not fitted on; the next index build does so" }
    Tightened "tightened" { "已自动收紧：近期消息与标注时不同，或错误超出承诺。请标注近期消息并重新训练。", "Made stricter by itself: recent messages are unlike the labelled ones, or wrong more often than promised. Label recent messages and train again." }
    Offline "offline" { "连接中断，请重试。", "The connection broke. Please try again." }
    NotFound "not_found" { "没有这个页面。", "There is no such page." }
    OperatorOnly "operator_only" { "仅限运营人员：请在本机打开，或提供访问令牌。", "Operators only: open this on the machine itself, or present the token." }
    VerdictAuto "verdict_auto_reply" { "自动回复", "Automatic reply" }
    VerdictSuggest "verdict_suggest" { "建议，待人工确认", "Proposed to a person" }
    VerdictHandoff "verdict_handoff" { "转人工", "Handed to a person" }
    PriorityNormal "priority_normal" { "普通", "Normal" }
    PriorityHigh "priority_high" { "优先", "High" }
    PriorityUrgent "priority_urgent" { "紧急", "Urgent" }
    ReasonSelfHarm "reason_self_harm" { "可能有自伤风险", "Possible self-harm" }
    ReasonSecurity "reason_security_incident" { "账户安全事件", "Account security incident" }
    ReasonLegal "reason_legal_threat" { "提到法律或曝光", "Legal or press threat" }
    ReasonAngry "reason_angry_complaint" { "客户愤怒投诉", "Angry complaint" }
    ReasonHuman "reason_human_request" { "客户要求人工", "Asked for a person" }
    ReasonInjection "reason_injection" { "疑似指令注入", "Looks like an instruction to the machine" }
    ReasonAttachment "reason_attachment" { "附件需人工查看", "An attachment to look at" }
    ReasonUnknown "reason_unknown_message" { "未知的消息类型", "Unknown kind of message" }
    ReasonNoEvidence "reason_no_evidence" { "知识库没有相关内容", "Nothing in the knowledge base" }
    ReasonLow "reason_low_confidence" { "把握不足", "Not sure enough" }
    ReasonNoAnswer "reason_no_approved_answer" { "没有审核过的答案", "No approved answer" }
    ReasonUnqualified "reason_unqualified" { "缺少有效的资质文件", "No valid qualification document" }
    ReasonLong "reason_answer_too_long" { "审核过的答案超过一条消息的长度", "The approved answer is longer than one message" }
    ReasonOpen "reason_variable_open" { "答案中的变量还没有值", "The answer has a variable without a value" }
    ReasonUnreadable "reason_unreadable" { "内容无法识别", "Not readable" }
    ReasonShort "reason_too_short" { "内容过短", "Too short" }
    ReasonUngrounded "reason_ungrounded" { "草稿超出依据", "The draft goes beyond its evidence" }
    ReasonNoncompliant "reason_noncompliant" { "不符合合规规则", "Against a compliance rule" }
    ReasonReached "reason_confidence_reached" { "把握足够", "Confidence reached" }
    ReasonGreeting "reason_greeting" { "问候", "Greeting" }
    ReasonNotice "reason_notice" { "系统提示", "Notice" }
    ReasonTimeout "reason_timeout" { "超时", "Out of time" }
    ReasonModel "reason_model_unavailable" { "模型不可用", "Model not available" }
    ReasonOverloaded "reason_overloaded" { "繁忙", "Too busy" }
    ReasonInternal "reason_internal_error" { "内部错误", "Internal error" }
    ReasonOwned "reason_person_owns" { "人工接待中，仅供参考", "A person has the conversation; a suggestion only" }
    ReasonDeliveryUnknown "reason_delivery_unknown" { "不确定客户是否收到，请核对后再发", "The customer may have received it or not: look before saying it again" }
    ReasonWindow "reason_window_closed" { "平台的回复时限已过，客户再次发消息后才能回复", "The platform's time to reply is over until the customer writes again" }
    ReasonQuota "reason_quota_used" { "平台允许的条数已用完，仅为人工保留", "The platform's number of replies is used up, but for what is kept for a person" }
    ReasonSend "reason_send_failed" { "平台拒绝发送", "The platform refused to deliver it" }
    ReasonNotFetched "reason_not_fetched" { "客户没有点开答复", "The customer did not tap for the answer" }
}

/// What the customer hears when a person takes over, by the most pressing reason.
pub fn handoff_notice(reason: Reason) -> Text {
    match reason {
        Reason::SelfHarm => Text::HandoffCare,
        Reason::SecurityIncident => Text::HandoffSecurity,
        Reason::LegalThreat | Reason::AngryComplaint => Text::HandoffComplaint,
        Reason::HumanRequest => Text::HandoffAsked,
        Reason::Attachment => Text::HandoffAttachment,
        Reason::AnswerTooLong => Text::HandoffLong,
        Reason::Injection
        | Reason::UnknownMessage
        | Reason::NoEvidence
        | Reason::LowConfidence
        | Reason::NoApprovedAnswer
        | Reason::Unqualified
        | Reason::VariableOpen
        | Reason::Unreadable
        | Reason::TooShort
        | Reason::Ungrounded
        | Reason::Noncompliant
        | Reason::ConfidenceReached
        | Reason::Greeting
        | Reason::Notice
        | Reason::Timeout
        | Reason::ModelUnavailable
        | Reason::Overloaded
        | Reason::InternalError
        | Reason::PersonOwns
        | Reason::DeliveryUnknown
        | Reason::WindowClosed
        | Reason::QuotaUsed
        | Reason::SendFailed
        | Reason::NotFetched => Text::HandoffCalm,
    }
}

/// How far a reply has come, in words.
pub fn delivery_text(state: DeliveryState) -> Text {
    match state {
        DeliveryState::Pending => Text::StatePending,
        DeliveryState::Offered => Text::StateOffered,
        DeliveryState::Kept => Text::StateKept,
        DeliveryState::Sending => Text::StateSending,
        DeliveryState::Delivered => Text::StateDelivered,
        DeliveryState::Handed => Text::StateHanded,
        DeliveryState::Dropped => Text::StateDropped,
    }
}

/// A verdict in words.
pub fn verdict_text(verdict: Verdict) -> Text {
    match verdict {
        Verdict::AutoReply => Text::VerdictAuto,
        Verdict::Suggest => Text::VerdictSuggest,
        Verdict::Handoff => Text::VerdictHandoff,
    }
}

/// A role in words.
pub fn role_text(role: Role) -> Text {
    match role {
        Role::Legal => Text::RoleLegal,
        Role::Brand => Text::RoleBrand,
    }
}

/// How a document stands, in words.
pub fn standing_text(standing: Standing) -> Text {
    match standing {
        Standing::Valid => Text::StandingValid,
        Standing::NotYet => Text::StandingNotYet,
        Standing::Expired => Text::StandingExpired,
    }
}

/// A reason in words.
pub fn reason_text(reason: Reason) -> Text {
    match reason {
        Reason::SelfHarm => Text::ReasonSelfHarm,
        Reason::SecurityIncident => Text::ReasonSecurity,
        Reason::LegalThreat => Text::ReasonLegal,
        Reason::AngryComplaint => Text::ReasonAngry,
        Reason::HumanRequest => Text::ReasonHuman,
        Reason::Injection => Text::ReasonInjection,
        Reason::Attachment => Text::ReasonAttachment,
        Reason::UnknownMessage => Text::ReasonUnknown,
        Reason::NoEvidence => Text::ReasonNoEvidence,
        Reason::LowConfidence => Text::ReasonLow,
        Reason::NoApprovedAnswer => Text::ReasonNoAnswer,
        Reason::Unqualified => Text::ReasonUnqualified,
        Reason::AnswerTooLong => Text::ReasonLong,
        Reason::VariableOpen => Text::ReasonOpen,
        Reason::Unreadable => Text::ReasonUnreadable,
        Reason::TooShort => Text::ReasonShort,
        Reason::Ungrounded => Text::ReasonUngrounded,
        Reason::Noncompliant => Text::ReasonNoncompliant,
        Reason::ConfidenceReached => Text::ReasonReached,
        Reason::Greeting => Text::ReasonGreeting,
        Reason::Notice => Text::ReasonNotice,
        Reason::Timeout => Text::ReasonTimeout,
        Reason::ModelUnavailable => Text::ReasonModel,
        Reason::Overloaded => Text::ReasonOverloaded,
        Reason::InternalError => Text::ReasonInternal,
        Reason::PersonOwns => Text::ReasonOwned,
        Reason::DeliveryUnknown => Text::ReasonDeliveryUnknown,
        Reason::WindowClosed => Text::ReasonWindow,
        Reason::QuotaUsed => Text::ReasonQuota,
        Reason::SendFailed => Text::ReasonSend,
        Reason::NotFetched => Text::ReasonNotFetched,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_match_the_codes() {
        let mut names: Vec<_> = Text::ALL.iter().map(|t| t.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Text::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason_text(*reason).name(), format!("reason_{reason}"));
        }
        for verdict in Verdict::ALL {
            assert_eq!(verdict_text(*verdict).name(), format!("verdict_{verdict}"));
        }
        for role in Role::ALL {
            assert_eq!(role_text(*role).name(), format!("role_{role}"));
        }
        for standing in Standing::ALL {
            assert_eq!(standing_text(*standing).name(), format!("standing_{standing}"));
        }
    }
}
