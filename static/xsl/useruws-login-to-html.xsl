<?xml version="1.0" encoding="UTF-8"?>
<!-- Who one is here, and the form to be somebody. -->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:l="urn:uwsd:login"
    exclude-result-prefixes="l">

  <xsl:import href="page.xsl"/>

  <xsl:template match="/l:login">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="'Who you are'"/>
      <xsl:with-param name="root" select="string(@root)"/>
      <xsl:with-param name="crumbs"><li><span aria-current="page">Who you are</span></li></xsl:with-param>
      <xsl:with-param name="main">
        <h1>Who you are</h1>
        <xsl:choose>
          <xsl:when test="l:you">
            <p>
              You are <strong><xsl:value-of select="l:you/text()"/></strong><xsl:for-each select="l:you/l:role">, <xsl:value-of select="."/></xsl:for-each>.
            </p>
          </xsl:when>
          <xsl:otherwise><p>You are nobody in particular.</p></xsl:otherwise>
        </xsl:choose>
        <xsl:if test="l:you/l:role">
          <p>
            You may look at <a href="{@root}queue">the queue</a><xsl:if test="l:you/l:role[. = 'auditor' or . = 'admin']"> and <a href="{@root}audit">the record</a></xsl:if>.
          </p>
        </xsl:if>
        <xsl:if test="l:quota">
          <h2 id="quotas">What you may have</h2>
          <ul aria-labelledby="quotas">
            <xsl:for-each select="l:quota"><li><xsl:value-of select="."/></li></xsl:for-each>
          </ul>
        </xsl:if>
        <xsl:if test="@session">
          <form method="post" action="{@root}logout"><button>Log out</button></form>
        </xsl:if>
        <xsl:if test="@form and not(@session)">
          <xsl:if test="l:refusal">
            <section class="error" role="alert"><p><xsl:value-of select="l:refusal"/></p></section>
          </xsl:if>
          <form class="order" method="post" action="{@root}login" aria-label="Log in">
            <input type="hidden" name="next" value="{@next}"/>
            <div class="field">
              <label for="username">User</label>
              <input id="username" name="username" required="required" autocomplete="username" value="{@name}"/>
            </div>
            <div class="field">
              <label for="password">Password</label>
              <input id="password" name="password" type="password" required="required" autocomplete="current-password"/>
            </div>
            <p><button class="primary">Log in</button></p>
          </form>
        </xsl:if>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

</xsl:stylesheet>
