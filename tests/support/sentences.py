"""A sentence in each of several languages and scripts."""

TEXTS = {
  "Chinese": "因为它有十二个苹果，所以答案是十二。",
  "Japanese": "彼は十二個のりんごを持っているので、答えは十二です。",
  "Thai": "เพราะว่ามีแอปเปิลสิบสองผลคำตอบคือสิบสอง",
  "Hindi": "क्योंकि उसके पास बारह सेब हैं, इसलिए उत्तर बारह है।",
  "Arabic": "لأن لديه اثنتي عشرة تفاحة، فالجواب اثنا عشر.",
  "Russian": "У него двенадцать яблок, поэтому ответ двенадцать.",
  "Korean": "그는 사과 열두 개를 가지고 있으므로 답은 열둘입니다.",
  "French": "Parce qu'il a été élu à l'université, la réponse est « été ».",
  "English": "The cat sat on the mat, because it was tired. ",
}
